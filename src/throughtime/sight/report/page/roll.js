// Piano rolls: the notes, and below them the network's probability of each key.

const KEY = 4; // pixels per key
const BETWEEN = 22; // pixels between the two rolls, and above the first
const EXPECTED = 0.15; // probabilities above this are always shown

// The lowest and the highest key to show.
function keysIn(steps, keys, sounds, probability) {
  let [low, high] = [keys - 1, 0];
  for (let t = 0; t < steps; t++) {
    for (let k = 0; k < keys; k++) if (sounds(t, k) || probability(t, k) > EXPECTED) [low, high] = [Math.min(low, k), Math.max(high, k)];
  }
  return low > high ? [0, keys - 1] : [Math.max(0, low - 1), Math.min(keys - 1, high + 1)];
}

function paintRoll(canvas, steps, names, [low, high], sounds, probability) {
  const height = (high - low + 1) * KEY;
  const pen = penOf(canvas, GUTTER + steps * CELL, 2 * (height + BETWEEN));
  const [ink, quiet, rule] = [variable("--ink"), variable("--quiet"), variable("--line")];
  const levels = Array.from({ length: 256 }, (_, b) => solid("--negative", b / 255));
  const panels = [["notes", (t, k) => (sounds(t, k) ? ink : null)], ["predicted", (t, k) => (probability(t, k) > 0.01 ? levels[byte(255 * probability(t, k))] : null)]];
  panels.forEach(([title, color], number) => {
    const top = number * (height + BETWEEN) + BETWEEN;
    pen.fillStyle = quiet;
    pen.fillText(title, GUTTER, top - 6);
    for (let k = low; k <= high; k++) {
      const y = top + (high - k) * KEY;
      if (/^C\d/.test(names[k])) {
        pen.fillStyle = rule;
        pen.fillRect(GUTTER, y + KEY - 1, steps * CELL, 1);
        pen.fillStyle = quiet;
        pen.fillText(names[k], 14, y + KEY + 2);
      }
      for (let t = 0; t < steps; t++) {
        const fill = color(t, k);
        if (!fill) continue;
        pen.fillStyle = fill;
        pen.fillRect(GUTTER + t * CELL, y, CELL - (number ? 0 : 1), KEY - (number ? 0 : 1));
      }
    }
    pen.strokeStyle = rule;
    pen.lineWidth = 1;
    pen.strokeRect(GUTTER - 0.5, top - 0.5, steps * CELL + 1, height + 1);
  });
}

// The step and the key under the pointer; null outside.
function keyAt(event, canvas, steps, [low, high]) {
  const box = canvas.getBoundingClientRect();
  const height = (high - low + 1) * KEY;
  const t = Math.floor((event.clientX - box.left - GUTTER) / CELL);
  const y = (event.clientY - box.top) % (height + BETWEEN) - BETWEEN;
  const k = high - Math.floor(y / KEY);
  return t >= 0 && t < steps && y >= 0 && k >= low && k <= high ? [t, k] : null;
}

function pointAt(canvas, steps, names, range, sounds, probability, onPress) {
  canvas.addEventListener("pointermove", (event) => {
    const at = keyAt(event, canvas, steps, range());
    if (!at) return hideTip();
    const [t, k] = at;
    showTip(`${names[k]} at step ${t}: ${sounds(t, k) ? "sounds" : "silent"}, predicted ${percent(probability(t, k))}`, event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", hideTip);
  if (onPress) canvas.addEventListener("click", (event) => {
    const at = keyAt(event, canvas, steps, range());
    if (at) onPress(at[0]);
  });
}

// The rolls of the sequences; all show the same keys.
const soundsAt = (t, k) => arrays.inputs[t * READING.features.length + k] > 0;
const probabilityAt = (t, k) => arrays.bit_probabilities[t * READING.features.length + k] / 255;
let keyRange = null;
const keysRead = () => (keyRange ??= keysIn(length, READING.features.length, soundsAt, probabilityAt));

function pointAtKeys(canvas, { start, stop }) {
  pointAt(canvas, stop - start, READING.features, keysRead, (t, k) => soundsAt(start + t, k), (t, k) => probabilityAt(start + t, k),
    (t) => { choose(start + t); goTo(start + t); });
}

function drawPartRolls() {
  for (const { part: { start, stop }, picture } of canvases) {
    paintRoll(picture, stop - start, READING.features, keysRead(), (t, k) => soundsAt(start + t, k), (t, k) => probabilityAt(start + t, k));
  }
}

// The keys at a step for the panel: those that sound, then those with the highest probability.
function keysAt(t) {
  const keys = READING.features.map((_, k) => k).filter((k) => soundsAt(t, k) || probabilityAt(t, k) > EXPECTED);
  keys.sort((a, b) => soundsAt(t, b) - soundsAt(t, a) || probabilityAt(t, b) - probabilityAt(t, a));
  const first = t === partOf(t).start;
  const rows = keys.slice(0, 9).map((k) => {
    const bar = make("i");
    bar.style.width = `${Math.max(1, 100 * probabilityAt(t, k))}%`;
    return make("div", { class: soundsAt(t, k) ? "guess right" : "guess" }, make("bdi", { text: READING.features[k] }), bar, make("b", { text: first ? "–" : percent(probabilityAt(t, k)) }));
  });
  return [make("h3", { text: first ? "Notes (the first step has no prediction)" : "Notes (green) with predicted probabilities" }), ...rows];
}

// The rolls of a training report.
const rolls = [];

async function buildRolls() {
  const list = byId("rolls-list");
  for (const roll of DATA.rolls) {
    const [target, probabilities] = (await Promise.all([unpack(roll.target), unpack(roll.probabilities)])).map((buffer) => new Uint8Array(buffer));
    const canvas = make("canvas");
    const keys = roll.keys.length;
    const sounds = (t, k) => target[t * keys + k] > 0;
    const probability = (t, k) => probabilities[t * keys + k] / 255;
    const range = keysIn(roll.steps, keys, sounds, probability);
    pointAt(canvas, roll.steps, roll.keys, () => range, sounds, probability);
    rolls.push(() => paintRoll(canvas, roll.steps, roll.keys, range, sounds, probability));
    list.append(make("figure", {}, make("figcaption", { text: roll.title }), make("div", { class: "scroll" }, canvas)));
  }
  drawRolls();
}

const drawRolls = () => rolls.forEach((paint) => paint());
