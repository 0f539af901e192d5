// Shared by all parts of the page: data, unpacking, number formatting, token names and colors.
// Texts enter the page only through textContent.

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

// Decompress a block, which is zlib data in base64.
async function unpack(id) {
  const letters = atob(byId(id).textContent.trim());
  const bytes = new Uint8Array(letters.length);
  for (let k = 0; k < letters.length; k++) bytes[k] = letters.charCodeAt(k);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const number = (value, digits = 2) =>
  !Number.isFinite(value) ? "–" : Math.abs(value) >= 10000 ? value.toExponential(1) : value.toFixed(digits).replace("-", "−");
const percent = (share) => (share >= 0.995 ? "100%" : share >= 0.0995 ? `${(100 * share).toFixed(0)}%` : `${(100 * share).toFixed(1)}%`);

// Make a token visible: replace line ends, tabs, control characters and direction marks with symbols.
const DIRECTION = /[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
const code = (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
const picture = (text) =>
  text
    .replace(/[\u0000-\u0009\u000b-\u001f]/g, (c) => (c === "\t" ? "⇥" : String.fromCharCode(0x2400 + c.charCodeAt(0))))
    .replace(/\u007f/g, "␡")
    .replace(DIRECTION, (c) => `‹${code(c)}›`);
const label = (text) => picture(text).replace(/\n/g, "↵").replace(/ /g, "␣") || "∅";

const flat = (text) => picture(text).replace(/\n/g, "↵");

// The sequences, or a single text, and the sequence that each step belongs to.
const length = READING ? READING.tokens.length : 0;
const PARTS = READING?.parts.length ? READING.parts : [{ name: "", start: 0, stop: length }];
const partIndex = new Uint32Array(length);
PARTS.forEach(({ start, stop }, k) => partIndex.fill(k, start, stop));
const partOf = (t) => PARTS[partIndex[t]];
const SEVERAL = Boolean(READING?.parts.length);
const TIMES = Boolean(READING?.inputs); // steps are times without tokens
const WHOLE = Boolean(READING?.label_influence); // one answer per sequence
const answerOf = (t) => (READING.answers.length ? READING.answers[t] : READING.tokens[t]);
const LOSS = READING?.answers.length ? "loss" : "surprise";

// Name a step on one line.
const titleOf = (t) => (TIMES ? `${DATA.step} ${READING.tokens[t]}` : label(READING.tokens[t]));
const placeOf = (t) => {
  const { start, stop, name } = partOf(t);
  return SEVERAL ? `${t - start + 1} of ${stop - start}${PARTS.length > 1 && name ? ` in ${name}` : ""}` : `${t} of ${length}`;
};

// The text before, at and after a place in its sequence, on one line.
const GAP = READING?.kind === "lines" && DATA.step !== "character" ? " " : "";
function context(t, reach = 14, stop = t + 1) {
  const { start, stop: end, name } = partOf(t);
  if (TIMES) return [`${name}, `, titleOf(t), ""];
  const span = (from, to) => flat(READING.tokens.slice(Math.max(start, from), Math.min(end, to)).join(GAP));
  if (GAP) return [`${span(t - reach, t)} `, span(t, stop), ` ${span(stop, stop + reach)}`];
  return [span(t - reach, t), span(t, stop), span(stop, stop + reach)];
}

// Colors: a translucent ink in 256 strengths, so that letters stay readable.
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

// Blend a color with the page's background, for charts, which have no transparency.
function solid(name, strength) {
  const ink = variable(name).split(/\s+/).map(Number);
  const paper = variable("--paper").match(/\w\w/g).map((pair) => parseInt(pair, 16));
  return `rgb(${ink.map((c, k) => Math.round(paper[k] + (c - paper[k]) * strength)).join(",")})`;
}

const narrow = () => innerWidth < 576;

// Show a tooltip next to the pointer, inside the window.
function showTip(text, x, y) {
  const tip = byId("tip");
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x - width / 2, innerWidth - width - 4))}px`;
  tip.style.top = `${y - height - 10 > 0 ? y - height - 10 : y + 22}px`;
}
const hideTip = () => (byId("tip").hidden = true);

// Units: blocks of bytes [units, T], unpacked on first use.
const nameOf = (value) => `${value.layer}.${value.name}`;
const loaded = new Map();
function levelsOf(value) {
  if (!loaded.has(value)) loaded.set(value, unpack(value.levels).then((buffer) => (value.bytes = new Uint8Array(buffer))));
  return loaded.get(value);
}
const rowOf = (value, unit) => value.bytes.subarray(unit * length, (unit + 1) * length);
const real = (value, unit, level) => (value.scales ? ((level - 128) / 127) * value.scales[unit] : level / 255);
