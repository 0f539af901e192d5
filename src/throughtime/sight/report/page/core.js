// What all parts of the page share: the data, their unpacking, numbers, names of symbols, colours.
// Texts reach the page through textContent alone.

const DATA = JSON.parse(document.getElementById("data").textContent);
const READING = DATA.reading;
const byId = (id) => document.getElementById(id);

function make(tag, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

// The bytes of a block, which is zlib's format in base64.
async function unpack(id) {
  const letters = atob(byId(id).textContent.trim());
  const bytes = new Uint8Array(letters.length);
  for (let k = 0; k < letters.length; k++) bytes[k] = letters.charCodeAt(k);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const number = (value, digits = 2) =>
  !Number.isFinite(value) ? "–" : Math.abs(value) >= 10000 ? value.toExponential(1) : value.toFixed(digits).replace("-", "−");
const percent = (share) => (share >= 0.995 ? "100 %" : share >= 0.0995 ? `${(100 * share).toFixed(0)} %` : `${(100 * share).toFixed(1)} %`);

// A symbol that can be seen: line ends, tabs, controls and what turns the direction of text have a sign.
const DIRECTION = /[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
const code = (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
const picture = (text) =>
  text
    .replace(/[\u0000-\u0009\u000b-\u001f]/g, (c) => (c === "\t" ? "⇥" : String.fromCharCode(0x2400 + c.charCodeAt(0))))
    .replace(/\u007f/g, "␡")
    .replace(DIRECTION, (c) => `‹${code(c)}›`);
const label = (text) => picture(text).replace(/\n/g, "↵").replace(/ /g, "␣") || "∅";

const flat = (text) => picture(text).replace(/\n/g, "↵");

// The sequences that were read, or one text; the sequence that each step belongs to.
const length = READING ? READING.symbols.length : 0;
const PARTS = READING?.parts.length ? READING.parts : [{ name: "", start: 0, stop: length }];
const partIndex = new Uint32Array(length);
PARTS.forEach(({ start, stop }, k) => partIndex.fill(k, start, stop));
const partOf = (t) => PARTS[partIndex[t]];
const SEVERAL = Boolean(READING?.parts.length);
const TIMES = Boolean(READING?.inputs); // steps are times, without a symbol
const WHOLE = Boolean(READING?.decided); // an answer is about a whole sequence
const answerOf = (t) => (READING.answers.length ? READING.answers[t] : READING.symbols[t]);
const LOSS = READING?.answers.length ? "loss" : "surprise";

// What a step is called on one line.
const titleOf = (t) => (TIMES ? `${DATA.symbol} ${READING.symbols[t]}` : label(READING.symbols[t]));
const placeOf = (t) => {
  const { start, stop, name } = partOf(t);
  return SEVERAL ? `${t - start + 1} of ${stop - start}${PARTS.length > 1 && name ? ` in ${name}` : ""}` : `${t} of ${length}`;
};

// What stands before a place, in it and after it in its sequence, to be shown on one line.
const GAP = READING?.kind === "lines" && DATA.symbol !== "character" ? " " : "";
function context(t, reach = 14, stop = t + 1) {
  const { start, stop: end, name } = partOf(t);
  if (TIMES) return [`${name}, `, titleOf(t), ""];
  const span = (from, to) => flat(READING.symbols.slice(Math.max(start, from), Math.min(end, to)).join(GAP));
  if (GAP) return [`${span(t - reach, t)} `, span(t, stop), ` ${span(stop, stop + reach)}`];
  return [span(t - reach, t), span(t, stop), span(stop, stop + reach)];
}

// Colours: an opaque ink in as many strengths as a byte has values, so that the letters stay readable.
const STRONGEST = 0.7;
const styles = getComputedStyle(document.documentElement);
const variable = (name) => styles.getPropertyValue(name).trim();
let palette = {};

function ramp(name) {
  const ink = variable(name);
  return Array.from({ length: 256 }, (_, k) => (k < 6 ? "transparent" : `rgb(${ink} / ${((STRONGEST * k) / 255).toFixed(3)})`));
}

function readPalette() {
  const positive = ramp("--positive");
  const negative = ramp("--negative");
  palette = {
    open: positive,
    signed: Array.from({ length: 256 }, (_, k) => (k >= 128 ? positive : negative)[Math.min(255, Math.round(Math.abs(k - 128) * 2.008))]),
    surprise: ramp("--surprise"),
    back: ramp("--back"),
  };
}

const byte = (x) => Math.max(0, Math.min(255, Math.round(x)));

// A colour over the page's, as charts want it, which know nothing of what lies under them.
function solid(name, strength) {
  const ink = variable(name).split(/\s+/).map(Number);
  const paper = variable("--paper").match(/\w\w/g).map((pair) => parseInt(pair, 16));
  return `rgb(${ink.map((c, k) => Math.round(paper[k] + (c - paper[k]) * strength)).join(",")})`;
}

const narrow = () => innerWidth < 576;

// The place of a tip beside what is pointed at, inside the window.
function showTip(text, x, y) {
  const tip = byId("tip");
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x - width / 2, innerWidth - width - 4))}px`;
  tip.style.top = `${y - height - 10 > 0 ? y - height - 10 : y + 22}px`;
}
const hideTip = () => (byId("tip").hidden = true);

// Units: blocks of bytes [units, T] that are unpacked when they are first wanted.
const nameOf = (value) => `${value.layer}.${value.name}`;
const loaded = new Map();
function levelsOf(value) {
  if (!loaded.has(value)) loaded.set(value, unpack(value.levels).then((buffer) => (value.bytes = new Uint8Array(buffer))));
  return loaded.get(value);
}
const rowOf = (value, unit) => value.bytes.subarray(unit * length, (unit + 1) * length);
const real = (value, unit, level) => (value.scales ? ((level - 128) / 127) * value.scales[unit] : level / 255);
