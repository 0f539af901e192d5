// Assemble the page.

const NONCE = document.currentScript.nonce;

function setTheme(wanted) {
  const dark = wanted ? wanted === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  for (const button of document.querySelectorAll("[data-theme]")) {
    if (button.tagName === "BUTTON") button.setAttribute("aria-pressed", String(button.dataset.theme === wanted));
  }
  readPalette();
}

// Parts of the page may still be unpacked when the theme changes; all are repainted once ready.
let ready = false;

function repaint() {
  if (!ready) return;
  if (READING) { shade(); buildGallery(); if (READING.kind === "roll") drawPartRolls(); if (READING.kind === "curves") drawCurves(); }
  if (DATA.confusion) buildConfusion();
  drawRolls();
  drawSounds();
  for (const name of drawn) draw(name);
}

async function start() {
  let wanted = "";
  setTheme(wanted);
  const { theme } = document.documentElement.dataset;
  for (const button of document.querySelectorAll("button[data-theme]")) {
    button.addEventListener("click", () => { setTheme((wanted = button.dataset.theme)); repaint(); });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { setTheme(wanted); repaint(); });
  DATA.samples.forEach((text, k) => (document.querySelector(`[data-sample="${k}"]`).textContent = text.split("\n").map(picture).join("\n")));
  listHorizons();
  if (DATA.confusion) buildConfusion();
  buildTables();
  await buildRolls();
  await buildSounds();
  if (READING) {
    const kinds = { losses: Float32Array, top: Uint32Array, probabilities: Float32Array, influence: Uint8Array, label_influence: Uint8Array, inputs: Float32Array, bit_probabilities: Uint8Array };
    await Promise.all(Object.entries(kinds).filter(([name]) => READING[name]).map(async ([name, kind]) => (arrays[name] = new kind(await unpack(READING[name])))));
    buildText();
    if (READING.kind === "roll") drawPartRolls();
    if (READING.kind === "curves") drawCurves();
    buildLegends();
    await buildPickers();
    if (WHOLE) { choosesShade("back"); shade(); }
    placeToolbar();
    addEventListener("resize", placeToolbar);
    listPlaces();
    await new Promise(requestAnimationFrame);
  }
  document.documentElement.dataset.ready = Math.round(performance.now());
  if (READING) await buildGallery();
  ready = true;
  if (document.documentElement.dataset.theme !== theme) repaint();
  watchCharts();
}

start();
