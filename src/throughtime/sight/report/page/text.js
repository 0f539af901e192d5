// The text: one span per token, shaded by a unit, by surprise, or by its influence on a chosen place.

const spans = [];
const shown = { value: null, unit: 0, shade: "unit", stretch: true, chosen: null, at: 0, looked: false };
const arrays = {};

// Create a step's element: its token, or an empty cell if steps are times.
function buildSpan(token, t) {
  const span = make("span", { tabindex: t ? -1 : 0 });
  if (TIMES) span.setAttribute("aria-label", titleOf(t));
  else {
    picture(token).split("\n").forEach((part, k) => {
      if (k) span.append(make("span", { class: "mark", text: "↵" }), "\n");
      if (part) span.append(part);
    });
    if (!token) span.append("∅");
  }
  span.dataset.t = t;
  return span;
}

function buildText() {
  const reading = byId("reading");
  spans.push(...READING.tokens.map(buildSpan));
  for (const t of READING.unknown) spans[t].classList.add("unknown");
  if (READING.kind === "text") reading.replaceChildren(...spans);
  else reading.replaceChildren(...PARTS.map(buildPart));
  const pointedAt = (event) => {
    const span = event.target.closest("span[data-t]");
    return span ? Number(span.dataset.t) : null;
  };
  reading.addEventListener("pointermove", (event) => {
    const t = pointedAt(event);
    if (t === null || event.pointerType === "touch") return hideTip();
    showTip(inShort(t), event.clientX, spans[t].getBoundingClientRect().top);
    if (shown.chosen === null && !found && shown.at !== t) lookAt(t);
  });
  reading.addEventListener("pointerleave", hideTip);
  reading.addEventListener("click", (event) => {
    const t = pointedAt(event);
    if (t === null || !getSelection().isCollapsed) return;
    forgetMatch();
    choose(shown.chosen === t ? null : t);
  });
  reading.addEventListener("focusin", (event) => {
    const t = pointedAt(event);
    if (t !== null) lookAt(t, true);
  });
  reading.addEventListener("keydown", onKey);
  watchSelection();
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const moves = {
    ArrowRight: () => shown.at + 1,
    ArrowLeft: () => shown.at - 1,
    ArrowDown: () => inLine(1),
    ArrowUp: () => inLine(-1),
    Home: () => 0,
    End: () => length - 1,
    PageDown: () => inLine(12),
    PageUp: () => inLine(-12),
  };
  if (event.key in moves) (event.shiftKey ? extend : goTo)(moves[event.key]());
  else if (event.key === "Enter" || event.key === " ") choose(shown.chosen === shown.at ? null : shown.at);
  else if (event.key === "Escape") letGoOfAll();
  else if (event.key === "[") byId("previous").click();
  else if (event.key === "]") byId("next").click();
  else return;
  event.preventDefault();
}

function letGoOfAll() {
  forgetMatch();
  choose(null);
}

// In a narrow window, the toolbar's first rows scroll away while the unit stays visible.
function placeToolbar() {
  byId("toolbar").style.top = narrow() ? `${6 - byId("unit").parentElement.offsetTop}px` : "";
}

// Find the token a number of displayed lines below (above if negative), or the last one in that direction.
function inLine(lines) {
  const way = Math.sign(lines);
  const left = spans[shown.at].offsetLeft;
  let [best, top, passed] = [shown.at, spans[shown.at].offsetTop, 0];
  for (let t = shown.at + way; t >= 0 && t < length; t += way) {
    if (Math.abs(spans[t].offsetTop - top) > 4) {
      if (passed === Math.abs(lines)) break;
      [top, passed, best] = [spans[t].offsetTop, passed + 1, t];
    } else if (passed && Math.abs(spans[t].offsetLeft - left) < Math.abs(spans[best].offsetLeft - left)) best = t;
  }
  return best;
}

function goTo(t) {
  t = Math.max(0, Math.min(length - 1, t));
  spans[t].focus({ preventScroll: true });
  spans[t].scrollIntoView({ block: "nearest" });
}

// Make a place the current one for the arrow keys and the panel.
function lookAt(t, aloud = false) {
  spans[shown.at].tabIndex = -1;
  shown.at = t;
  shown.looked = true;
  spans[t].tabIndex = 0;
  tell(t);
  if (aloud) byId("status").textContent = inShort(t);
}

function choose(t) {
  if (shown.chosen !== null) spans[shown.chosen].classList.remove("chosen");
  shown.chosen = t;
  const radio = document.querySelector('input[name="shade"][value="back"]');
  radio.disabled = t === null && !WHOLE;
  radio.parentElement.title = radio.disabled ? `Click a ${DATA.step} first` : "";
  if (t !== null) {
    spans[t].classList.add("chosen");
    choosesShade("back");
    lookAt(t);
  } else if (shown.shade === "back" && !WHOLE) choosesShade("unit");
  shade();
}

function choosesShade(name) {
  document.querySelector(`input[name="shade"][value="${name}"]`).checked = true;
  shown.shade = name;
}

// The influence of the input at s on the answer at t, from 0 to 255; null if not measured.
function reachOf(t, s) {
  if (partIndex[t] !== partIndex[s]) return null;
  if (WHOLE) return arrays.label_influence[s];
  const column = t - s - READING.first;
  return column >= 0 && column < READING.lags ? arrays.influence[t * READING.lags + column] : null;
}
// Nats at a color's full strength.
const lossRange = () => (READING.kind === "roll" ? Math.max(...arrays.losses.filter(Number.isFinite)) : 8);

// The colors of all tokens for the current selection.
function colors() {
  if (shown.shade === "surprise") return Array.from(arrays.losses, (x) => palette.surprise[byte((255 * (x || 0)) / lossRange())]);
  if (shown.shade === "back") {
    if (WHOLE) return Array.from(arrays.label_influence, (level) => palette.back[level]);
    return spans.map((_, s) => palette.back[reachOf(shown.chosen, s)] ?? "transparent");
  }
  const row = rowOf(shown.value, shown.unit);
  return Array.from(row, inksOf(shown.value, row, shown.stretch));
}

// The color of each level of a unit, over the full range of the gate or unit, or over its own usual range.
function inksOf(value, row, stretch) {
  const [low, high] = rangeOf(value, row, stretch);
  const inks = value.scales ? palette.signed : palette.open;
  return (level) => inks[byte((255 * (level - low)) / Math.max(1, high - low))];
}

// The levels with the strongest colors; 0 stays in the middle for signed values.
function rangeOf(value, row, stretch) {
  if (!stretch) return value.scales ? [1, 255] : [0, 255];
  const usual = (levels, share) => levels.sort()[Math.floor(share * (length - 1))];
  if (!value.scales) return [usual(Uint8Array.from(row), 0.02), usual(Uint8Array.from(row), 0.98)];
  const reach = Math.max(1, usual(Uint8Array.from(row, (level) => Math.abs(level - 128)), 0.98));
  return [128 - reach, 128 + reach];
}

function shade() {
  if (shown.shade === "unit" && !shown.value?.bytes) return;
  colors().forEach((color, t) => (spans[t].style.backgroundColor = color));
  if (TIMES) drawTraces();
  showLegend();
  tell(shown.at);
}

function showLegend() {
  const [low, bar, high] = byId("legend").children;
  const between = (inks) => `linear-gradient(90deg, ${[0, 64, 128, 192, 255].map((k) => inks[k]).join(", ")})`;
  if (shown.shade === "surprise") {
    [low.textContent, high.textContent, bar.style.background] = ["0", `${number(lossRange(), 0)} nats`, between(palette.surprise)];
  } else if (shown.shade === "back") {
    [low.textContent, high.textContent, bar.style.background] = [WHOLE ? "0" : "1/1000", "strongest", between(palette.back)];
  } else {
    const { value, unit } = shown;
    const [from, to] = rangeOf(value, rowOf(value, unit), shown.stretch);
    low.textContent = number(real(value, unit, from));
    high.textContent = number(real(value, unit, to));
    bar.style.background = between(value.scales ? palette.signed : palette.open);
  }
}
