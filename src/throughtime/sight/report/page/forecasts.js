// Forecasts: windows with intervals, the error by step of the horizon, and how far back forecasts look.

function drawWindow({ times, values, point, low, high }) {
  const ahead = times.slice(-point.length);
  const band = (y, more) => ({ x: ahead, y, mode: "lines", line: { width: 0, color: series(1) }, hoverinfo: "skip", showlegend: false, ...more });
  const range = `${Math.round(100 * DATA.forecasts.share)}% interval`;
  return {
    traces: [
      band(high, {}),
      band(low, { name: range, fill: "tonexty", fillcolor: solid("--positive", 0.22), showlegend: true }),
      { x: times, y: values, name: "actual", mode: "lines", line: line(0), hovertemplate: "%{y:.4g}" },
      { x: ahead, y: point, name: "forecast", mode: "lines", line: line(1), text: low.map((a, k) => `${a.toPrecision(4)} to ${high[k].toPrecision(4)}`), hovertemplate: "%{y:.4g} (%{text})" },
    ],
    layout: layoutOf({
      hovermode: "x unified", showlegend: true, margin: { l: 48, r: 8, t: 8, b: 36 },
      xaxis: { type: /^-?\d+$/.test(times[0]) ? "linear" : "date", nticks: 5 },
      shapes: [{ type: "line", x0: ahead[0], x1: ahead[0], yref: "paper", y0: 0, y1: 1, line: { color: variable("--quiet"), width: 1, dash: "dot" } }],
    }),
  };
}

for (const kind of ["last", "worst"]) {
  (DATA.forecasts?.[kind] ?? []).forEach((window, k) => (drawing[`${kind}-${k}`] = () => drawWindow(window)));
}

drawing.horizon = () => ({
  traces: DATA.forecasts.steps.map((c, k) => ({
    x: c.steps, y: c.values, name: c.label, mode: c.steps.length > 60 ? "lines" : "lines+markers", line: { ...line(k), width: k ? 1.5 : 2.5 }, marker: { size: k ? 4 : 6 },
    hovertemplate: "%{y:.4f}<extra>%{fullData.name}</extra>",
  })),
  layout: layoutOf({ hovermode: "x unified", showlegend: true, xaxis: { title: "rows after the origin" }, yaxis: { title: "scaled mean absolute error", rangemode: "tozero" } }),
});

drawing.lookback = () => {
  const { steps, values } = DATA.forecasts.lookback;
  return {
    traces: [{ x: steps, y: values, mode: steps.length > 60 ? "lines" : "lines+markers", line: line(0), marker: { size: 5 }, hovertemplate: "%{y:.1%} of the maximum, %{x} rows back<extra></extra>" }],
    layout: layoutOf({ xaxis: { title: "rows before the origin", rangemode: "tozero" }, yaxis: { title: "gradient of the forecast", tickformat: ".0%", rangemode: "tozero" } }),
  };
};
