// The charts. Plotly is unpacked and run when the first chart approaches the visible area.

let plotlyThere = null;
function plotly() {
  plotlyThere ??= unpack("plotly").then((buffer) => {
    const script = document.createElement("script");
    script.nonce = NONCE;
    script.textContent = new TextDecoder().decode(buffer);
    document.head.append(script);
  });
  return plotlyThere;
}

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };
const series = (k) => variable(`--series-${k % 6}`);
const DASHES = ["solid", "dot", "dash", "dashdot"];

function layoutOf(more = {}) {
  const axis = { gridcolor: variable("--line"), linecolor: variable("--line"), zeroline: false, ticks: "", automargin: true, tickfont: { size: 12 }, title: { standoff: 8, font: { size: 13 } } };
  const { xaxis = {}, yaxis = {}, ...rest } = more;
  return {
    font: { family: variable("--sans"), size: 13, color: variable("--quiet") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 52, r: 12, t: 12, b: 44 },
    hoverlabel: { bgcolor: variable("--ink"), bordercolor: variable("--ink"), font: { color: variable("--paper"), family: variable("--sans"), size: 13 } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { color: variable("--ink") } },
    dragmode: narrow() ? false : "zoom",
    xaxis: { ...axis, ...xaxis, title: { ...axis.title, text: xaxis.title } },
    yaxis: { ...axis, ...yaxis, title: { ...axis.title, text: yaxis.title } },
    ...rest,
  };
}

const line = (k, dash = 0) => ({ color: series(k), width: 2, dash: DASHES[dash % DASHES.length] });
const drawing = {};

const LABEL = { width: 30, height: 17 }; // pixels of space for the number next to a marker

// Place the lags next to their markers: smaller ones below on the left, larger ones above on the right, where their
// own curves don't pass. A number that would cover its neighbor moves farther away.
function placesOfLags(flows, longest) {
  const sorted = [...flows].sort((a, b) => a.lag - b.lag);
  const apart = (a, b) => (Math.abs(a.lag - b.lag) * byId("chart-flow").clientWidth) / longest;
  const half = Math.ceil(sorted.length / 2);
  const place = (side, way) => {
    let row = 0;
    return side.map((flow, k) => {
      row = k && apart(flow, side[k - 1]) < LABEL.width ? row + 1 : 0;
      return [flow, -way * 15, way * (15 + row * LABEL.height)];
    });
  };
  return [...place(sorted.slice(0, half), 1), ...place(sorted.slice(half).reverse(), -1)];
}

drawing.flow = () => {
  const groups = [...new Set(DATA.flows.map((f) => f.group))];
  const labels = [...new Set(DATA.flows.map((f) => f.label))];
  const longest = Math.max(...DATA.flows.map((f) => f.values.length - 1));
  const traces = DATA.flows.map((flow) => ({
    x: flow.values.map((_, lag) => lag),
    y: flow.values.map((v) => (v > 0 ? v : null)),
    name: [flow.label, flow.group].filter(Boolean).join(", "),
    mode: "lines",
    line: line(labels.indexOf(flow.label), groups.length - 1 - groups.indexOf(flow.group)),
    hovertemplate: "%{y:.2e} at lag %{x}",
  }));
  const marked = DATA.flows.filter((f) => f.lag !== null && f.values[f.lag] > 0);
  const colorOf = (flow) => series(labels.indexOf(flow.label));
  traces.push({
    x: marked.map((f) => f.lag), y: marked.map((f) => f.values[f.lag]), mode: "markers", showlegend: false, cliponaxis: false,
    marker: { size: 11, symbol: marked.map((f) => (groups.length > 1 && f.group === groups[0] ? "diamond-open" : "diamond")), color: marked.map(colorOf), line: { color: marked.map(colorOf), width: 2 } },
    hovertext: marked.map((f) => `${f.label}${f.group ? `, ${f.group}` : ""}: horizon ${f.horizon}`), hoverinfo: "text",
  });
  const all = DATA.flows.flatMap((f) => f.values).filter((v) => v > 0);
  const lowest = Math.max(Math.floor(Math.log10(Math.min(...all, 0.005))), -9);
  return {
    traces,
    layout: layoutOf({
      hovermode: "x unified",
      xaxis: { title: "steps back (lag)", range: [0, longest] },
      // plotly draws powers a quarter larger than other numbers.
      yaxis: { title: "gradient, relative to lag 0", type: "log", tickfont: { size: 9.6 }, range: [lowest, Math.ceil(Math.log10(Math.max(...all, 1)) + 0.15)], exponentformat: "power", dtick: 1 },
      shapes: [
        { type: "rect", x0: 0, x1: 10, yref: "paper", y0: 0, y1: 1, line: { width: 0 }, fillcolor: variable("--band"), layer: "below" },
        { type: "line", xref: "paper", x0: 0, x1: 1, y0: 0.01, y1: 0.01, line: { color: variable("--quiet"), width: 1, dash: "dot" } },
      ],
      annotations: [
        { x: 10, xanchor: "left", yref: "paper", y: 0.02, yanchor: "bottom", text: "← typical of a plain RNN", showarrow: false, font: { size: 11 } },
        { xref: "paper", x: 1, xanchor: "right", y: -2, yanchor: "bottom", text: "1%", showarrow: false, font: { size: 11 } },
        ...(narrow() ? [] : placesOfLags(marked, longest).map(([flow, x, y]) => ({
          x: flow.lag, y: Math.log10(flow.values[flow.lag]), text: `${flow.lag}`, ax: x, ay: y, showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: colorOf(flow), standoff: 5, font: { color: colorOf(flow), size: 13 },
        }))),
      ],
    }),
  };
};

drawing.timescales = () => {
  const most = DATA.values[0]?.units.length * 1000 || 1e5;
  return {
    traces: DATA.timescales.map((t, k) => {
      const order = t.steps.map((steps, unit) => [steps ?? Infinity, unit]).sort((a, b) => b[0] - a[0]);
      return {
        x: order.map((_, place) => (order.length > 1 ? (100 * place) / (order.length - 1) : 0)),
        y: order.map(([steps]) => Math.min(steps, most)),
        name: `${t.layer} (${t.gate})`, mode: "lines+markers", line: line(k), marker: { size: 4 },
        text: order.map(([steps, unit]) => `unit ${unit}: ${Number.isFinite(steps) ? `${number(steps, 1)} steps` : "forever"}`),
        hovertemplate: "%{text}<extra>%{fullData.name}</extra>",
      };
    }),
    layout: layoutOf({
      xaxis: { title: "percentage of the layer’s units", ticksuffix: "%", range: [-1, 101] },
      yaxis: { title: "steps", type: "log", rangemode: "tozero" },
      showlegend: true,
    }),
  };
};

const SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
drawing.saturation = () => {
  const layers = [...new Set(DATA.saturations.map((s) => s.layer))];
  const gates = [...new Set(DATA.saturations.map((s) => s.gate))];
  return {
    traces: DATA.saturations.map((s) => ({
      x: s.closed, y: s.opened, mode: "markers", name: `${s.layer} ${s.gate}`,
      text: s.closed.map((_, unit) => `${s.layer}.${s.gate} ${unit}`),
      marker: { size: 7, opacity: 0.75, color: series(gates.indexOf(s.gate)), symbol: SHAPES[layers.indexOf(s.layer) % SHAPES.length] },
      hovertemplate: "%{text}<br>shut %{x:.0%}, open %{y:.0%}<extra></extra>",
    })),
    layout: layoutOf({
      xaxis: { title: "nearly shut (fraction of steps)", range: [-0.03, 1.03], tickformat: ".0%" },
      yaxis: { title: "nearly open (fraction of steps)", range: [-0.03, 1.03], tickformat: ".0%" },
      shapes: [{ type: "line", x0: 0, y0: 1, x1: 1, y1: 0, line: { color: variable("--line"), width: 1 } }],
      showlegend: true,
    }),
  };
};

// A logarithmic axis for positive values that span more than two powers of ten.
function axisFor(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low > 0 && high / low > 100 ? { type: "log", dtick: 1, exponentformat: "none" } : {};
}

drawing.training = () => ({
  traces: DATA.curves.map((c, k) => ({
    x: c.steps, y: c.values, name: c.label, mode: c.steps.length > 60 ? "lines" : "lines+markers", line: line(k), marker: { size: 5 },
    hovertemplate: "%{y:.3f} at step %{x}<extra>%{fullData.name}</extra>",
  })),
  layout: layoutOf({
    xaxis: { title: "step", rangemode: "tozero" },
    yaxis: { title: DATA.loss, ...axisFor(DATA.curves.flatMap((c) => c.values).filter(Number.isFinite)) },
    showlegend: true,
    shapes: DATA.best ? [{ type: "line", x0: DATA.best, x1: DATA.best, yref: "paper", y0: 0, y1: 1, line: { color: variable("--quiet"), width: 1, dash: "dot" } }] : [],
    annotations: DATA.best ? [{ x: DATA.best, xanchor: "right", yref: "paper", y: 1, yanchor: "top", text: "weights kept ", showarrow: false, font: { size: 11 } }] : [],
  }),
});

// An axis over all steps that first shows only the first ones.
function scrolling(title, first) {
  const more = first < length ? ` (${length.toLocaleString("en")} in all; drag to see more)` : "";
  return { title: `${title}${more}`, range: [-0.5, Math.min(length, first) - 0.5] };
}

const NEAR = 20; // tokens on each side in the running mean

drawing.surprise = () => {
  const losses = Array.from(arrays.losses);
  const means = losses.map((_, t) => {
    const near = losses.slice(Math.max(0, t - NEAR), t + NEAR + 1).filter(Number.isFinite);
    return near.reduce((a, b) => a + b, 0) / near.length;
  });
  const around = losses.map((_, t) => context(t).map((part, k) => (k === 1 ? `[${part}]` : part)).join(""));
  return {
    traces: [
      { x: losses.map((_, t) => t), y: losses, type: "bar", name: `each ${DATA.step}`, marker: { color: solid("--surprise", 0.45), line: { width: 0 } }, text: around.map(escapeMarks), textposition: "none", hovertemplate: "%{text}<br>%{y:.2f} nats at %{x}<extra></extra>" },
      { x: losses.map((_, t) => t), y: means, name: "running mean", mode: "lines", line: { color: variable("--ink"), width: 1.6 }, hoverinfo: "skip" },
    ],
    layout: layoutOf({ bargap: 0, hovermode: "closest", showlegend: true, xaxis: scrolling(`${DATA.step}${SEVERAL ? "" : " position"}`, narrow() ? 200 : 600), yaxis: { title: "nats", fixedrange: true, rangemode: "tozero" }, dragmode: "pan" }),
    onClick: (point) => goTo(point.x),
  };
};

// The heat map is an image between plotly's axes, since plotly's own heat map takes seconds to draw.
drawing.gates = () => {
  const value = shown.value;
  const rows = orders[byId("order").value].units(value);
  const place = (event) => {
    const { xaxis, yaxis, _size: size } = byId("chart-gates")._fullLayout;
    const box = byId("chart-gates").getBoundingClientRect();
    const t = Math.round(xaxis.p2d(event.clientX - box.left - size.l));
    const row = Math.round(yaxis.p2d(event.clientY - box.top - size.t));
    return t >= 0 && t < length && row >= 0 && row < rows.length ? [t, rows[row]] : null;
  };
  return {
    traces: [{ x: [0], y: [0], mode: "markers", opacity: 0, hoverinfo: "skip" }],
    layout: layoutOf({
      margin: { l: 44, r: 6, t: 8, b: 44 },
      xaxis: { ...scrolling(`${DATA.step}${SEVERAL ? ", all sequences" : " position"}`, narrow() || SEVERAL ? 150 : 400), showgrid: false },
      yaxis: { title: `units, ${orders[byId("order").value].title}`, range: [rows.length - 0.5, -0.5], showticklabels: false, showgrid: false, fixedrange: true },
      images: pictures(value, rows),
      shapes: PARTS.slice(1).map(({ start }) => ({ type: "line", x0: start - 0.5, x1: start - 0.5, yref: "paper", y0: 0, y1: 1, line: { color: variable("--ink"), width: PARTS.length > 60 ? 0.5 : 1 }, opacity: 0.5 })),
      dragmode: "pan",
    }),
    onMove: (event) => {
      const at = place(event);
      if (!at) return hideTip();
      const [t, unit] = at;
      const [before, here, after] = context(t);
      showTip(`${nameOf(value)} ${unit}: ${number(real(value, unit, rowOf(value, unit)[t]))}\n${before}[${here}]${after}`, event.clientX, event.clientY);
    },
    onPress: (event) => {
      const at = place(event);
      if (at) { pickUnit(at[1]); goTo(at[0]); }
    },
  };
};

const WIDEST = 4000; // widest image in pixels that every browser supports

// Draw one row of pixels per unit, split into images that are not too wide.
function pictures(value, rows) {
  const inks = Array.from({ length: 256 }, (_, k) => {
    const x = value.scales ? (k - 128) / 127 : k / 255;
    const [r, g, b] = solid(x < 0 ? "--negative" : "--positive", Math.min(1, Math.abs(x))).match(/\d+/g);
    return new Uint32Array(Uint8Array.of(r, g, b, 255).buffer)[0];
  });
  const parts = [];
  for (let start = 0; start < length; start += WIDEST) {
    const width = Math.min(WIDEST, length - start);
    const canvas = make("canvas", { width, height: rows.length });
    const pen = canvas.getContext("2d");
    const image = pen.createImageData(width, rows.length);
    const pixels = new Uint32Array(image.data.buffer);
    rows.forEach((unit, y) => {
      const row = rowOf(value, unit);
      for (let x = 0; x < width; x++) pixels[y * width + x] = inks[row[start + x]];
    });
    pen.putImageData(image, 0, 0);
    parts.push({ source: canvas.toDataURL(), xref: "x", yref: "y", x: start - 0.5, y: -0.5, sizex: width, sizey: rows.length, sizing: "stretch", layer: "below" });
  }
  return parts;
}

// Plotly interprets some HTML in its texts.
const escapeMarks = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/%\{/g, "%\u200b{");

const drawn = new Set();
const MOVED = 4; // pixels of movement that turn a click into a drag
async function draw(name) {
  await plotly();
  const place = byId(`chart-${name}`);
  const { traces, layout, onMove, onPress, onClick } = drawing[name]();
  await Plotly.react(place, traces, layout, CONFIG);
  place.removeAllListeners("plotly_click");
  if (onClick) place.on("plotly_click", ({ points }) => onClick(points[0]));
  if (onMove) {
    let pressed = null;
    place.onpointermove = onMove;
    place.onpointerleave = hideTip;
    place.onpointerdown = (event) => (pressed = event);
    place.onpointerup = (event) => {
      if (pressed && Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) < MOVED) onPress(event);
      pressed = null;
    };
  }
  drawn.add(name);
  place.dataset.drawn = drawn.size;
}
const redraw = (name) => drawn.has(name) && draw(name);

function watchCharts() {
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      draw(target.id.replace("chart-", ""));
    }
  }, { rootMargin: "400px" });
  document.querySelectorAll(".chart").forEach((chart) => watcher.observe(chart));
}

function listHorizons() {
  byId("horizons")?.replaceChildren(...DATA.flows.map((flow) =>
    make("li", { text: `${flow.label}${flow.group ? `, ${flow.group}` : ""}: ${flow.horizon}` })));
}

function listPlaces() {
  const losses = Array.from(arrays.losses, (x, t) => [x, t]).filter(([x]) => Number.isFinite(x));
  const worst = losses.sort((a, b) => b[0] - a[0]).slice(0, 12);
  byId("places")?.replaceChildren(...worst.map(([loss, t]) => {
    const [before, here, after] = context(t, DATA.step === "character" ? 22 : 6);
    const code = make("code", { dir: "auto" }, before, make("mark", { text: here }), after);
    const entry = make("li", {}, code, make("br"), jump(t, `${number(loss, 1)} nats`));
    const share = READING.choices ? percent(arrays.probabilities[t * READING.choices]) : "";
    if (READING.answers.length) entry.append(` predicted ${predictionOf(t)} ${share}${predictionOf(t) === answerOf(t) ? "" : ` (correct: ${answerOf(t)})`}`);
    else if (READING.choices) entry.append(` predicted ${label(predictionOf(t))} (${share})`);
    return entry;
  }));
}
