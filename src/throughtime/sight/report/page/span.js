// A selected span of text: the units that are on throughout it, and where else they are all on.
// As defined by throughtime.sight.match (after LSTMVis, Strobelt et al. 2018).

const ON = 0.3; // a unit is on above this value, or below its negative
const LISTED = 6;

let found = null; // { start, stop, units: [[unit, sign, share elsewhere]], places: [[start, stop]] }

function watchSelection() {
  const end = (node) => (node?.nodeType === Node.TEXT_NODE ? node.parentElement : node)?.closest?.("#reading span[data-t]");
  const read = () => {
    const selection = getSelection();
    if (selection.isCollapsed) return;
    const places = [end(selection.anchorNode), end(selection.focusNode)];
    if (!places[0] || !places[1]) return;
    const [first, last] = places.map((span) => Number(span.dataset.t)).sort((a, b) => a - b);
    if (last > first) findMatch(first, last + 1);
  };
  document.addEventListener("pointerup", () => setTimeout(read));
  document.addEventListener("touchend", () => setTimeout(read, 50));
}

// Shift and an arrow key extend the span from its starting point.
function extend(t) {
  found ??= { anchor: shown.at };
  const { anchor } = found;
  goTo(t);
  findMatch(Math.min(anchor, shown.at), Math.max(anchor, shown.at) + 1);
  found.anchor = anchor;
}

function findMatch(start, stop) {
  const value = shown.value;
  const units = [];
  value.units.forEach((_, unit) => {
    for (const sign of value.scales ? [1, -1] : [1]) {
      const on = isOn(unit, sign);
      let t = start;
      while (t < stop && on(t)) t++;
      if (t < stop) continue;
      let elsewhere = 0;
      for (let s = 0; s < length; s++) elsewhere += (s < start || s >= stop) && on(s);
      units.push([unit, sign, elsewhere / Math.max(1, length - (stop - start))]);
    }
  });
  units.sort((a, b) => a[2] - b[2]);
  const outside = [start - 1, stop].filter((t) => t >= 0 && t < length);
  const bounded = units.filter(([unit, sign]) => outside.every((t) => !isOn(unit, sign)(t)));
  const together = bounded.length ? bounded : units;
  found = { start, stop, units, together, places: placesOf(together, start, stop) };
  showMatch();
}

const isOn = (unit, sign) => {
  const row = rowOf(shown.value, unit);
  return (t) => sign * real(shown.value, unit, row[t]) > ON;
};

// The other ranges of steps in which all given units are on, most similar in length to the span first.
function placesOf(units, start, stop) {
  if (!units.length) return [];
  const tests = units.map(([unit, sign]) => isOn(unit, sign));
  const places = [];
  let first = -1;
  for (let t = 0; t <= length; t++) {
    const here = t < length && tests.every((on) => on(t));
    if (here && first < 0) first = t;
    if (!here && first >= 0) {
      if (first >= stop || t <= start) places.push([first, t]);
      first = -1;
    }
  }
  const unlike = ([from, to]) => Math.abs(to - from - (stop - start));
  return places.sort((a, b) => unlike(a) - unlike(b) || a[0] - b[0]);
}

function showMatch() {
  const marked = new Set(found?.places?.flatMap(([from, to]) => Array.from({ length: to - from }, (_, k) => from + k)));
  spans.forEach((span, t) => {
    span.classList.toggle("span", Boolean(found) && t >= found.start && t < found.stop);
    span.classList.toggle("again", marked.has(t));
  });
  tell(shown.at);
}

function forgetMatch() {
  if (!found) return;
  found = null;
  getSelection().removeAllRanges();
  showMatch();
}

// The panel's contents for the selection.
function matchParts() {
  if (!found?.units) return [];
  const text = flat(READING.tokens.slice(found.start, found.stop).join(""));
  const heading = make("h3", {}, `${nameOf(shown.value)} units on throughout `, make("bdi", { text: `“${text.length > 24 ? `${text.slice(0, 23)}…` : text}”` }));
  if (!found.units.length) return [heading, make("p", { class: "hint", text: "none" })];
  const units = found.units.slice(0, LISTED).map(([unit, sign, elsewhere]) => {
    const button = make("button", { type: "button", class: "link", text: `unit ${unit}${sign < 0 ? " below −0.3" : ""}` });
    button.addEventListener("click", () => pickUnit(unit));
    return make("div", { class: "busy" }, button, make("span", { text: `${percent(elsewhere)} of the remaining text` }));
  });
  const all = found.together.length === found.units.length ? `all ${found.units.length}` : `the ${found.together.length} that are off just outside it`;
  const places = found.places.slice(0, LISTED).map(([from, to]) => make("div", { class: "busy" }, jump(from, context(from, 4, to).join(""))));
  const more = found.places.length > LISTED ? [make("p", { class: "hint", text: `and ${found.places.length - LISTED} more, underlined` })] : [];
  return [heading, ...units, make("h3", { text: `Where ${all} are on again` }), ...(places.length ? places : [make("p", { class: "hint", text: "nowhere else" })]), ...more];
}
