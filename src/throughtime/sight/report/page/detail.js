// The contents of the panel and the tooltip for a place in the text.

const valueAt = (t) => real(shown.value, shown.unit, rowOf(shown.value, shown.unit)[t]);

function inShort(t) {
  const words = [SEVERAL ? `${titleOf(t)}  ${TIMES ? `of ${partOf(t).name}` : ""}` : `${label(READING.tokens[t])}  at ${t}`];
  if (READING.kind === "lines" && answerOf(t)) words.push(`predicted ${predictionOf(t)}${predictionOf(t) === answerOf(t) ? "" : ` (correct: ${answerOf(t)})`}`);
  if (shown.shade === "back" && (WHOLE || shown.chosen !== null)) {
    const lag = shown.chosen - t;
    const level = reachOf(WHOLE ? t : shown.chosen, t);
    if (WHOLE) words.push(`influence ${shareBack(level)}`);
    else if (level !== null) words.push(`${away(lag)}: ${shareBack(level)}`);
    else if (lag && partIndex[t] === partIndex[shown.chosen]) words.push(lag < 0 ? `after the selected ${DATA.step}` : "too far back, not measured");
  } else if (shown.value?.bytes) words.push(`${nameOf(shown.value)} ${shown.unit}: ${number(valueAt(t))}`);
  if (Number.isFinite(arrays.losses?.[t])) words.push(`${LOSS} ${number(arrays.losses[t])} nats`);
  return words.join("\n");
}

const predictionOf = (t) => (READING.choices ? READING.alphabet[arrays.top[t * READING.choices]] : "");
const away = (lag) => (lag > 0 ? `${lag} back` : lag < 0 ? `${-lag} ahead` : "here");

const shareOf = (level) => (WHOLE ? percent(level / 255) : level ? percent(10 ** ((level / 255 - 1) * 3)) : "under 0.1%");
const shareBack = (level) => `${shareOf(level)} of the maximum`;

function tell(t) {
  if (!arrays.losses || (narrow() && !shown.looked)) return;
  const loss = arrays.losses[t];
  const rows = [["position", placeOf(t)]];
  if (shown.value?.bytes) rows.push([`${nameOf(shown.value)} ${shown.unit}`, number(valueAt(t), 3)]);
  if (READING.answers.length) rows.push(["true label", answerOf(t) || "unknown"]);
  if (Number.isFinite(loss)) rows.push([WHOLE ? "loss of the sequence" : LOSS, `${number(loss)} nats`]);
  if (Number.isFinite(loss) && READING.choices) rows.push([READING.answers.length ? "probability of true label" : "predicted probability", percent(Math.exp(-loss))]);
  const list = make("dl");
  for (const [name, text] of rows) list.append(make("dt", { text: name }), make("dd", { text }));
  const parts = [make("p", { class: "token" }, make("bdi", { text: titleOf(t) })), list];
  if (found) parts.splice(0, 2, ...matchParts());
  if (shown.chosen !== null || found) parts.unshift(letGo());
  if (found) return byId("detail").replaceChildren(...parts);
  if (READING.unknown.includes(t)) parts.push(make("p", { class: "hint", text: `this ${DATA.step} did not occur in training and was read as <unk>` }));
  if (READING.choices && (READING.answers.length || Number.isFinite(loss))) parts.push(make("h3", { text: WHOLE ? "Prediction for this sequence" : "Prediction here" }), ...guesses(t));
  if (READING.kind === "roll") parts.push(...keysAt(t));
  if (WHOLE || shown.chosen === t) parts.push(make("h3", { text: "Largest influences, relative to the maximum" }), ...lookedAt(t));
  if (shown.value?.bytes) parts.push(make("h3", { text: `Most unusual units here: ${nameOf(shown.value)}, and its distance from the mean in standard deviations (σ)` }), ...unusual(t));
  byId("detail").replaceChildren(...parts);
}

function guesses(t) {
  const found = [];
  for (let k = 0; k < READING.choices; k++) {
    const answer = READING.alphabet[arrays.top[t * READING.choices + k]];
    const share = arrays.probabilities[t * READING.choices + k];
    const right = answer === answerOf(t);
    const bar = make("i");
    bar.style.width = `${Math.max(1, 100 * share)}%`;
    const row = make("div", { class: right ? "guess right" : "guess" }, make("bdi", { text: READING.answers.length ? answer : label(answer) }), bar, make("b", { text: percent(share) }));
    if (right) row.title = READING.answers.length ? "true label" : `actual next ${DATA.step}`;
    found.push(row);
  }
  return found;
}

function lookedAt(t) {
  const { start, stop } = partOf(t);
  const steps = Array.from({ length: stop - start }, (_, k) => start + k).filter((s) => reachOf(t, s));
  const top = steps.sort((a, b) => reachOf(t, b) - reachOf(t, a)).slice(0, 5);
  return top.map((s) =>
    make("div", { class: "busy" }, jump(s, WHOLE ? (TIMES ? titleOf(s) : `${titleOf(s)}  at ${s - start + 1}`) : `${titleOf(s)}  ${away(t - s)}`),
      make("span", { text: shareOf(reachOf(t, s)) })));
}

function letGo() {
  const button = make("button", { type: "button", class: "close", "aria-label": "Clear selection", title: "Clear selection (Escape)", text: "×" });
  button.addEventListener("click", letGoOfAll);
  return button;
}

function jump(t, text) {
  const button = make("button", { type: "button", class: "link", text });
  button.addEventListener("click", () => goTo(t));
  return button;
}

// The units whose values deviate most from their means, in standard deviations.
function unusual(t) {
  const value = shown.value;
  value.spread ??= value.units.map((_, unit) => {
    const row = rowOf(value, unit);
    let [sum, squares] = [0, 0];
    for (const level of row) [sum, squares] = [sum + level, squares + level * level];
    const mean = sum / length;
    return [mean, Math.sqrt(Math.max(squares / length - mean * mean, 1))];
  });
  const far = value.spread.map(([mean, spread], unit) => [unit, (value.bytes[unit * length + t] - mean) / spread]);
  return far.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 5).map(([unit, deviations]) => {
    const button = make("button", { type: "button", class: "link", text: `unit ${unit}` });
    button.addEventListener("click", () => pickUnit(unit));
    return make("div", { class: "busy" }, button, make("span", { text: `${number(real(value, unit, value.bytes[unit * length + t]))} (${number(deviations, 1)} σ)` }));
  });
}
