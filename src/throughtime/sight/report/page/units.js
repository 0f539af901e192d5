// Choose a layer, a value and a unit, and show a gallery of interesting units.

const EXCERPT = 150; // tokens

const orders = {
  interest: { title: "most interesting first", units: (value) => value.units },
  number: { title: "by number", units: (value) => value.units.map((_, k) => k) },
  lasting: { title: "slowest first", units: (value) => [...value.units].sort((a, b) => stepsPerSide(value, b) - stepsPerSide(value, a)) },
};

// The mean number of steps that a unit stays on one side of its mean.
function stepsPerSide(value, unit) {
  const row = rowOf(value, unit);
  const mean = row.reduce((a, b) => a + b, 0) / length;
  let turns = 1;
  for (let t = 1; t < length; t++) turns += row[t] > mean !== row[t - 1] > mean;
  return length / turns;
}

function fill(select, entries, chosen) {
  select.replaceChildren(...entries.map(([id, text]) => make("option", { value: id, text })));
  if (chosen !== undefined) select.value = chosen;
}

function buildPickers() {
  const layers = [...new Set(DATA.values.map((v) => v.layer))];
  fill(byId("layer"), layers.map((l) => [l, l]));
  fill(byId("order"), Object.entries(orders).map(([id, order]) => [id, order.title]));
  const first = mostInteresting();
  byId("layer").value = first.value.layer;
  fillNames(first.value.name);
  byId("layer").addEventListener("change", () => { fillNames(byId("value").value); changeValue(); });
  byId("value").addEventListener("change", () => changeValue());
  byId("order").addEventListener("change", () => fillUnits());
  byId("unit").addEventListener("change", () => pickUnit(Number(byId("unit").value)));
  byId("stretch").addEventListener("change", (event) => { shown.stretch = event.target.checked; shade(); });
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    byId(id).addEventListener("click", () => {
      const options = byId("unit").options;
      byId("unit").selectedIndex = (byId("unit").selectedIndex + step + options.length) % options.length;
      pickUnit(Number(byId("unit").value));
    });
  }
  for (const radio of document.querySelectorAll('input[name="shade"]')) {
    radio.addEventListener("change", () => { shown.shade = radio.value; shade(); });
  }
  return changeValue(first.unit);
}

function fillNames(wanted) {
  const names = DATA.values.filter((v) => v.layer === byId("layer").value).map((v) => v.name);
  fill(byId("value"), names.map((n) => [n, n]), names.includes(wanted) ? wanted : names[0]);
}

async function changeValue(unit) {
  const value = DATA.values.find((v) => v.layer === byId("layer").value && v.name === byId("value").value);
  await levelsOf(value);
  if (shown.value !== value) forgetMatch();
  shown.value = value;
  fillUnits(unit ?? value.units[0]);
  pickUnit(Number(byId("unit").value));
  redraw("gates");
}

function fillUnits(unit = shown.unit) {
  const units = orders[byId("order").value].units(shown.value);
  fill(byId("unit"), units.map((k) => [k, `${k}${shown.value.notes[k] ? ` · ${shown.value.notes[k]}` : ""}`]), unit);
}

function pickUnit(unit) {
  shown.unit = unit;
  byId("unit").value = unit;
  if (shown.shade !== "unit") {
    if (shown.chosen !== null) spans[shown.chosen].classList.remove("chosen");
    shown.chosen = null;
    document.querySelector('input[name="shade"][value="back"]').disabled = !WHOLE;
    choosesShade("unit");
  }
  shade();
  byId("status").textContent = `${nameOf(shown.value)} unit ${unit}. ${shown.value.notes[unit]}`;
}

async function showUnit(value, unit) {
  byId("layer").value = value.layer;
  fillNames(value.name);
  await changeValue(unit);
  byId("text").scrollIntoView();
}

function mostInteresting() {
  const all = DATA.values.map((value) => ({ value, unit: value.units[0], interest: value.interest[value.units[0]] }));
  return all.sort((a, b) => b.interest - a.interest)[0];
}

async function buildGallery() {
  const chosen = DATA.interesting.map(([k, unit]) => ({ value: DATA.values[k], unit }));
  await Promise.all(chosen.map((one) => levelsOf(one.value)));
  byId("gallery").replaceChildren(...chosen.map(({ value, unit }) => {
    const button = make("button", { type: "button", class: "link", text: `${nameOf(value)} ${unit}` });
    button.addEventListener("click", () => showUnit(value, unit));
    const row = rowOf(value, unit);
    const code = make("code", { dir: "auto" });
    const start = busiest(row);
    const inkOf = inksOf(value, row, true);
    for (let t = start; t < Math.min(length, start + EXCERPT); t++) {
      const span = make("span", TIMES ? { class: "cell" } : { text: flat(READING.tokens[t]) });
      span.style.backgroundColor = inkOf(row[t]);
      code.append(span);
      if (GAP || t + 1 === partOf(t).stop) code.append(" ");
    }
    return make("div", { class: "strip" }, make("div", {}, button, make("p", { text: `${value.notes[unit]} (${percent(value.interest[unit])})` })), code);
  }));
}

// The start of the excerpt with the largest variance.
function busiest(row) {
  const size = Math.min(EXCERPT, row.length);
  let [sum, squares, best, start] = [0, 0, -1, 0];
  for (let t = 0; t < row.length; t++) {
    sum += row[t];
    squares += row[t] * row[t];
    if (t < size - 1) continue;
    const variance = squares - (sum * sum) / size;
    if (variance > best) [best, start] = [variance, t - size + 1];
    sum -= row[t - size + 1];
    squares -= row[t - size + 1] ** 2;
  }
  return start;
}
