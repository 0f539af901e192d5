// Several sequences, one below another: lines of tokens with the network's predictions, or curves over time.

const longestPart = Math.max(0, ...PARTS.map(({ start, stop }) => stop - start));
const CELL = longestPart > 150 ? 4 : READING?.kind === "curves" && longestPart < 40 ? 20 : 8; // pixels per step, if steps are times
const GUTTER = 42; // pixels to the left of the steps
const CURVES = 6; // the maximum number of features to draw
const CURVE_HEIGHT = 72;
const TRACE_HEIGHT = 44;
const canvases = []; // each part's picture and trace

function buildPart(part) {
  if (READING.kind === "lines") return buildLine(part);
  const picture = make("canvas", { class: "picture" });
  const trace = make("canvas", { class: "trace" });
  canvases.push({ part, picture, trace });
  if (READING.kind === "roll") pointAtKeys(picture, part);
  const cells = make("div", { class: "cells" }, ...spans.slice(part.start, part.stop));
  cells.style.setProperty("--cell", `${CELL}px`);
  for (const element of [cells, trace]) element.style.marginLeft = `${GUTTER}px`;
  const box = make("div", { class: "part" },
    make("div", { class: "heading" }, make("bdi", { text: /^\d+$/.test(part.name) ? `Sequence ${part.name}` : part.name }), verdict(part)),
    make("div", { class: "scroll" }, picture, cells, trace));
  box.classList.toggle("right", !box.querySelector(".wrong"));
  return box;
}

// A checkbox that shows only mistakes, if there are any, and the legend of the curves.
function buildLegends() {
  const reading = byId("reading");
  if (reading.querySelector(".wrong")) {
    const box = make("input", { type: "checkbox", id: "mistakes" });
    box.addEventListener("change", () => reading.classList.toggle("mistakes", box.checked));
    byId("stretch").parentElement.after(make("label", { class: "check" }, box, " mistakes only"));
  }
  if (READING.kind === "curves" && READING.features.length > 1) {
    const names = READING.features.slice(0, CURVES).map((name, k) => {
      const entry = make("span", { text: name });
      entry.style.color = `var(--series-${k})`;
      return entry;
    });
    const more = READING.features.length - CURVES;
    if (more > 0) names.push(make("span", { text: `and ${more} more not drawn` }));
    reading.prepend(make("div", { class: "names" }, ...names));
  }
}

function buildLine(part) {
  if (!WHOLE) {
    for (let t = part.start; t < part.stop; t++) {
      const wrong = answerOf(t) && answerOf(t) !== predictionOf(t);
      const tag = make("small", { text: wrong ? `${predictionOf(t)} (correct: ${answerOf(t)})` : predictionOf(t) });
      if (wrong) tag.className = "wrong";
      spans[t].append(tag);
    }
  }
  const text = make("div", { class: "line-text", dir: "auto" }, ...spans.slice(part.start, part.stop));
  const line = make("div", { class: WHOLE ? "line whole" : "line" }, ...(WHOLE ? [verdict(part), text] : [text, verdict(part)]));
  line.classList.toggle("right", !line.querySelector(".wrong"));
  return line;
}

// The network's prediction for a sequence, and the true label if it differs.
function verdict(part) {
  if (!WHOLE || !part.predicted) return make("span", { class: "verdict", text: Number.isFinite(part.loss) && SEVERAL ? `${number(part.loss)} nats per ${DATA.unit}` : "" });
  const wrong = part.answer && part.answer !== part.predicted;
  const found = make("span", { class: wrong ? "verdict wrong" : "verdict" }, make("bdi", { text: part.predicted }), ` ${percent(part.probability)}`);
  if (wrong) found.append(" (correct: ", make("bdi", { text: part.answer }), ")");
  return found;
}

// A drawing context for a canvas of the given size in CSS pixels.
function penOf(canvas, width, height) {
  const dense = Math.min(2, devicePixelRatio || 1);
  Object.assign(canvas, { width: Math.round(width * dense), height: Math.round(height * dense) });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const pen = canvas.getContext("2d");
  pen.scale(dense, dense);
  pen.font = `11px ${variable("--sans")}`;
  pen.fillStyle = variable("--quiet");
  return pen;
}

function strokeCurve(pen, steps, valueOf, low, high, height, color, left = 0) {
  const y = (value) => height - 3 - ((value - low) / (high - low || 1)) * (height - 6);
  pen.strokeStyle = color;
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (let t = 0; t < steps; t++) pen.lineTo(left + (t + 0.5) * CELL, y(valueOf(t)));
  pen.stroke();
  return y;
}

// Draw the inputs of each sequence on a common scale.
function drawCurves() {
  const features = READING.features.length;
  const [low, high] = arrays.inputs.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, -Infinity]);
  for (const { part, picture } of canvases) {
    const steps = part.stop - part.start;
    const pen = penOf(picture, GUTTER + steps * CELL, CURVE_HEIGHT);
    pen.fillText(number(high, 1), 4, 11);
    pen.fillText(number(low, 1), 4, CURVE_HEIGHT - 3);
    for (let k = 0; k < Math.min(features, CURVES); k++) {
      strokeCurve(pen, steps, (t) => arrays.inputs[(part.start + t) * features + k], low, high, CURVE_HEIGHT, series(k), GUTTER);
    }
  }
}

// Draw the chosen unit along each sequence on the legend's scale.
function drawTraces() {
  const { value, unit } = shown;
  if (!value?.bytes) return;
  const row = rowOf(value, unit);
  const [low, high] = rangeOf(value, row, shown.stretch);
  for (const { part, trace } of canvases) {
    const steps = part.stop - part.start;
    const pen = penOf(trace, steps * CELL, TRACE_HEIGHT);
    const y = strokeCurve(pen, steps, (t) => Math.max(low, Math.min(high, row[part.start + t])), low, high, TRACE_HEIGHT, variable("--ink"));
    if (!value.scales) continue;
    pen.strokeStyle = variable("--line");
    pen.lineWidth = 1;
    pen.strokeRect(0, y(128), steps * CELL, 0);
  }
}
