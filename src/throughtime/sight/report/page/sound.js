// Sounds: players, waveforms, residual, spectrogram, a metric and a unit's value on a common time axis.

const SOUND_GUTTER = 62; // pixels to the left of the images
const WAVE = 74, SPECTRUM = 150, FIGURE = 74, UNIT = 84, AXIS = 22; // heights in pixels
const CLOSEST = 32; // fewest samples to show
const sounds = [];

const seconds = (t, digits = 3) => `${t.toFixed(digits)} s`;

// Encode a 16-bit WAV file as a data URI.
function wavOf(samples, rate) {
  const bytes = new Uint8Array(44 + 2 * samples.length);
  const view = new DataView(bytes.buffer);
  const put = (at, text) => [...text].forEach((c, k) => (bytes[at + k] = c.charCodeAt(0)));
  put(0, "RIFF"); put(8, "WAVEfmt "); put(36, "data");
  [[4, 36 + 2 * samples.length], [16, 16], [24, rate], [28, 2 * rate], [40, 2 * samples.length]].forEach(([at, x]) => view.setUint32(at, x, true));
  [[20, 1], [22, 1], [32, 2], [34, 16]].forEach(([at, x]) => view.setUint16(at, x, true));
  samples.forEach((x, k) => view.setInt16(44 + 2 * k, Math.round(32767 * Math.max(-1, Math.min(1, x))), true));
  let letters = "";
  for (let k = 0; k < bytes.length; k += 8192) letters += String.fromCharCode(...bytes.subarray(k, k + 8192));
  return `data:audio/wav;base64,${btoa(letters)}`;
}

const peakOf = (samples) => samples.reduce((a, x) => Math.max(a, Math.abs(x)), 0);

async function buildSounds() {
  for (const [number, about] of DATA.sounds.entries()) {
    const tracks = await Promise.all(about.tracks.map(async ({ name, scale, levels }) => {
      const raw = new Int16Array(await unpack(levels));
      return { name, samples: Float32Array.from(raw, (x) => (x * scale) / 32767) };
    }));
    const sound = { about, number, tracks, from: 0, to: about.length, canvases: {}, players: [], unit: 0, value: null };
    if (about.compared) {
      const [target, found] = about.compared.map((k) => tracks[k].samples);
      sound.residual = target.map((x, t) => x - found[t]);
    }
    byId("sounds-list").append(soundFigure(sound));
    if (about.values.length) await pickSoundValue(sound, about.values[0]);
    sounds.push(sound);
  }
  drawSounds();
  addEventListener("resize", drawSounds);
}

function soundFigure(sound) {
  const { about, tracks } = sound;
  const players = make("div", { class: "players" });
  const played = tracks.map((track) => ({ ...track, note: "" }));
  if (sound.residual) {
    const louder = Math.min(1000, 0.9 * Math.min(1, peakOf(tracks[about.compared[0]].samples)) / (peakOf(sound.residual) || 1));
    const more = Math.max(0, Math.round(20 * Math.log10(louder)));
    played.push({ name: "residual", samples: sound.residual.map((x) => x * 10 ** (more / 20)), note: more ? ` amplified by ${more} dB` : "" });
  }
  for (const { name, samples, note } of played) {
    const audio = make("audio", { controls: "", preload: "metadata", "aria-label": `${name}${note}` });
    audio.src = wavOf(samples, about.rate);
    audio.addEventListener("play", () => { sound.players.filter((other) => other !== audio).forEach((other) => other.pause()); sound.playing = audio; follow(sound); });
    sound.players.push(audio);
    players.append(make("label", { class: "player" }, make("span", {}, make("b", { text: name }), note), audio));
  }
  const bar = make("div", { class: "toolbar still" });
  if (tracks.length > 1) {
    const pick = make("select", {}, ...tracks.map(({ name }, k) => make("option", { value: k, text: name })));
    pick.value = sound.spectrumOf = about.compared ? about.compared[1] : 0;
    pick.addEventListener("change", () => { sound.spectrumOf = Number(pick.value); drawSound(sound); });
    bar.append(make("label", { class: "pick" }, "Spectrogram of ", pick));
  } else sound.spectrumOf = 0;
  if (about.values.length) bar.append(...unitPickers(sound));
  const all = make("button", { type: "button", class: "all", text: "Show all" });
  all.addEventListener("click", () => zoomTo(sound, 0, about.length));
  bar.append(all);
  const stack = make("div", { class: "stack" });
  for (const [name, shown] of Object.entries({ waves: true, residual: sound.residual, spectrum: true, figure: about.along, unit: about.values.length, axis: true })) {
    if (!shown) continue;
    sound.canvases[name] = make("canvas", { role: "img", "aria-label": `${name} of ${about.title}`, "data-picture": name });
    stack.append(sound.canvases[name]);
  }
  sound.cursor = make("div", { class: "cursor", hidden: "" });
  sound.band = make("div", { class: "band", hidden: "" });
  stack.append(sound.cursor, sound.band);
  sound.stack = stack;
  watchSound(sound);
  return make("figure", { class: "sound" }, make("figcaption", { text: `${about.title}, ${seconds(about.length / about.rate, 2)} at ${about.rate.toLocaleString("en")} samples per second` }), players, bar, stack);
}

function unitPickers(sound) {
  const { values } = sound.about;
  const value = make("select", { class: "sound-value" }, ...values.map((v, k) => make("option", { value: k, text: `${v.layer}.${v.name}` })));
  sound.unitSelect = make("select", { class: "sound-unit" });
  value.addEventListener("change", async () => { await pickSoundValue(sound, values[Number(value.value)]); drawSound(sound); });
  sound.unitSelect.addEventListener("change", () => { sound.unit = Number(sound.unitSelect.value); drawSound(sound); });
  const steps = [["‹", -1, "Previous unit"], ["›", 1, "Next unit"]].map(([text, step, title]) => {
    const button = make("button", { type: "button", text, "aria-label": title });
    button.addEventListener("click", () => {
      const { options, selectedIndex } = sound.unitSelect;
      sound.unitSelect.selectedIndex = (selectedIndex + step + options.length) % options.length;
      sound.unit = Number(sound.unitSelect.value);
      drawSound(sound);
    });
    return button;
  });
  return [make("label", { class: "pick" }, "Value ", value), make("span", { class: "pick" }, make("label", {}, "Unit ", sound.unitSelect), ...steps)];
}

// The sound keeps its old value until the new one is unpacked, because the page may be redrawn in between.
async function pickSoundValue(sound, value) {
  sound.picked = value;
  value.bytes ??= new Uint8Array(await unpack(value.levels));
  if (sound.picked !== value) return;
  sound.value = value;
  fill(sound.unitSelect, value.order.map((k) => [k, k]), value.order.includes(sound.unit) && sound.seen ? sound.unit : value.order[0]);
  sound.seen = true;
  sound.unit = Number(sound.unitSelect.value);
}

const soundWidth = (sound) => Math.max(280, sound.stack.clientWidth || 900);
const xOf = (sound, t) => SOUND_GUTTER + ((t - sound.from) / (sound.to - sound.from)) * (soundWidth(sound) - SOUND_GUTTER);
const timeAt = (sound, x) => sound.from + ((x - SOUND_GUTTER) / (soundWidth(sound) - SOUND_GUTTER)) * (sound.to - sound.from);

const drawSounds = () => sounds.forEach(drawSound);

function drawSound(sound) {
  const { about, tracks, canvases } = sound;
  const width = soundWidth(sound);
  const pen = (name, height, title) => {
    const found = penOf(canvases[name], width, height);
    if (title) title.split("\n").forEach((text, k) => found.fillText(text, 0, 12 + 13 * k));
    return found;
  };
  sound.peak ??= Math.max(...tracks.map(({ samples }) => peakOf(samples))) || 1;
  const waves = pen("waves", WAVE * (about.compared ? tracks.length - 1 : tracks.length));
  let row = 0;
  tracks.forEach(({ name, samples }, k) => {
    const over = about.compared && k === about.compared[1];
    const top = over ? about.compared[0] * WAVE : WAVE * row++;
    waves.fillStyle = series(k);
    name.split(" next ").forEach((text, line) => waves.fillText(text, 0, top + (over ? 26 : 12) + 13 * line));
    paintWave(waves, sound, samples, top, WAVE, series(k), over ? 0.75 : 1, sound.peak);
  });
  if (sound.residual) {
    const most = peakOf(sound.residual) || 1;
    paintWave(pen("residual", WAVE, `residual\n±${number(most, most < 0.01 ? 4 : 3)}`), sound, sound.residual, 0, WAVE, variable("--ink"), 1, most);
  }
  paintSpectrum(pen("spectrum", SPECTRUM), sound, width);
  if (canvases.figure) paintFigure(pen("figure", FIGURE, about.figure.replace(/, | (?=per )/, "\n")), sound);
  if (canvases.unit) paintUnit(pen("unit", UNIT, `${sound.value.name}\nunit ${sound.unit}`), sound);
  paintAxis(pen("axis", AXIS), sound, width);
  sound.stack.dataset.drawn = Number(sound.stack.dataset.drawn ?? 0) + 1;
}

// Draw the minimum and maximum of each pixel column, or a line if samples are farther apart.
function paintWave(pen, sound, samples, top, height, color, opacity, most) {
  const width = soundWidth(sound);
  const y = (x) => top + height / 2 - (Math.max(-most, Math.min(most, x)) / most) * (height / 2 - 4);
  pen.strokeStyle = variable("--line");
  pen.strokeRect(SOUND_GUTTER, y(0), width - SOUND_GUTTER, 0);
  pen.strokeStyle = pen.fillStyle = color;
  pen.globalAlpha = opacity;
  const per = (sound.to - sound.from) / (width - SOUND_GUTTER);
  pen.beginPath();
  if (per > 2) {
    for (let x = 0; x < width - SOUND_GUTTER; x++) {
      const first = Math.floor(sound.from + x * per);
      let [low, high] = [Infinity, -Infinity];
      for (let t = first; t < Math.min(sound.to, first + per + 1); t++) [low, high] = [Math.min(low, samples[t]), Math.max(high, samples[t])];
      if (high >= low) pen.rect(SOUND_GUTTER + x, y(high), 1, Math.max(0.8, y(low) - y(high)));
    }
    pen.fill();
  } else {
    for (let t = sound.from; t < sound.to; t++) pen.lineTo(xOf(sound, t), y(samples[t]));
    pen.lineWidth = 1.5;
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

function paintSpectrum(pen, sound, width) {
  const { rate } = sound.about;
  const size = 1 << Math.round(Math.log2(Math.max(64, Math.min(2048, rate * 0.025))));
  const columns = Math.min(700, Math.round((width - SOUND_GUTTER) / 1.5));
  const found = spectrogram(sound.tracks[sound.spectrumOf].samples, sound.from, sound.to, columns, size);
  const picture = make("canvas", { width: columns, height: size / 2 });
  const inks = picture.getContext("2d");
  const image = inks.createImageData(columns, size / 2);
  const ink = variable("--ink").match(/\w\w/g).map((pair) => parseInt(pair, 16));
  for (let column = 0; column < columns; column++) {
    for (let k = 0; k < size / 2; k++) {
      const at = 4 * ((size / 2 - 1 - k) * columns + column);
      image.data.set([...ink, 255 * (1 + found[column * (size / 2) + k] / FLOOR) ** 2], at);
    }
  }
  inks.putImageData(image, 0, 0);
  pen.drawImage(picture, SOUND_GUTTER, 4, width - SOUND_GUTTER, SPECTRUM - 8);
  for (const share of [0, 0.5, 1]) pen.fillText(`${number((share * rate) / 2000, 1)} kHz`, 0, 4 + (SPECTRUM - 8) * (1 - share) + (share === 1 ? 10 : share === 0 ? 0 : 4));
}

function paintFigure(pen, sound) {
  const { along, window } = sound.about;
  const there = along.filter(Number.isFinite);
  let [low, high] = [Math.min(...there), Math.max(...there)];
  if (!(high > low)) [low, high] = [low - 1, low + 1];
  const y = (x) => FIGURE - 6 - ((x - low) / (high - low)) * (FIGURE - 14);
  pen.fillText(number(high, 1), SOUND_GUTTER - 30, 12);
  pen.fillText(number(low, 1), SOUND_GUTTER - 30, FIGURE - 4);
  pen.strokeStyle = series(3);
  pen.lineWidth = 1.5;
  pen.beginPath();
  clipped(pen, sound, FIGURE, () => {
    along.forEach((x, k) => {
      if (!Number.isFinite(x)) return;
      pen.lineTo(xOf(sound, k * window), y(x));
      pen.lineTo(xOf(sound, (k + 1) * window), y(x));
    });
    pen.stroke();
  });
}

function paintUnit(pen, sound) {
  const { value, unit } = sound;
  const row = value.bytes.subarray(unit * 2 * value.windows, (unit + 1) * 2 * value.windows);
  const realOf = (level) => (value.scales ? ((level - 128) / 127) * value.scales[unit] : level / 255);
  const [low, high] = [Math.min(...row), Math.max(...row)].map(realOf);
  const y = (x) => UNIT - 6 - ((x - low) / (high - low || 1)) * (UNIT - 12);
  pen.fillText(number(high), SOUND_GUTTER - 30, 38);
  pen.fillText(number(low), SOUND_GUTTER - 30, UNIT - 4);
  pen.fillStyle = solid("--positive", 0.75);
  clipped(pen, sound, UNIT, () => {
    for (let k = Math.floor(sound.from / value.size); k < Math.min(value.windows, sound.to / value.size + 1); k++) {
      const [bottom, top] = [y(realOf(row[k])), y(realOf(row[value.windows + k]))];
      const x = xOf(sound, k * value.size);
      pen.fillRect(x, top - 0.7, Math.max(1, xOf(sound, (k + 1) * value.size) - x), bottom - top + 1.4);
    }
  });
}

function clipped(pen, sound, height, paint) {
  pen.save();
  const path = new Path2D();
  path.rect(SOUND_GUTTER, 0, soundWidth(sound) - SOUND_GUTTER, height);
  pen.clip(path);
  paint();
  pen.restore();
}

function paintAxis(pen, sound, width) {
  const { rate } = sound.about;
  const span = (sound.to - sound.from) / rate;
  const step = [1, 2, 5].flatMap((m) => [-6, -5, -4, -3, -2, -1, 0, 1].map((e) => m * 10 ** e)).sort((a, b) => a - b).find((s) => span / s <= width / 110);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  pen.strokeStyle = variable("--line");
  for (let t = Math.ceil(sound.from / rate / step) * step; t <= sound.to / rate; t += step) {
    const x = xOf(sound, t * rate);
    pen.strokeRect(x, 0, 0, 4);
    pen.fillText(seconds(t, digits), Math.min(x, width - 44), 16);
  }
}

function zoomTo(sound, from, to) {
  const size = Math.max(CLOSEST, Math.min(sound.about.length, Math.round(to - from)));
  sound.from = Math.max(0, Math.min(sound.about.length - size, Math.round(from)));
  sound.to = sound.from + size;
  drawSound(sound);
}

function watchSound(sound) {
  const { stack, cursor, band } = sound;
  let pressed = null;
  const place = (event) => event.clientX - stack.getBoundingClientRect().left;
  stack.addEventListener("pointerdown", (event) => { pressed = place(event); });
  stack.addEventListener("pointermove", (event) => {
    const x = place(event);
    if (pressed !== null && Math.abs(x - pressed) > MOVED) {
      Object.assign(band.style, { left: `${Math.min(x, pressed)}px`, width: `${Math.abs(x - pressed)}px` });
      band.hidden = false;
    }
    const t = Math.floor(timeAt(sound, x));
    if (x < SOUND_GUTTER || t < 0 || t >= sound.about.length) return hideTip();
    showTip(soundTip(sound, t), event.clientX, event.clientY);
  });
  stack.addEventListener("pointerleave", () => { hideTip(); band.hidden = true; pressed = null; });
  stack.addEventListener("pointerup", (event) => {
    const x = place(event);
    band.hidden = true;
    if (pressed === null) return;
    const [from, to] = [pressed, x].sort((a, b) => a - b).map((at) => timeAt(sound, Math.max(SOUND_GUTTER, at)));
    const moved = Math.abs(x - pressed) > MOVED;
    pressed = null;
    if (moved) return zoomTo(sound, from, to);
    const player = sound.playing ?? sound.players[sound.about.compared?.[1] ?? 0];
    player.currentTime = Math.max(0, from / sound.about.rate);
    showCursor(sound, player);
    player.play().catch(() => {}); // browsers may block playback
  });
  stack.addEventListener("dblclick", () => zoomTo(sound, 0, sound.about.length));
  cursor.hidden = true;
}

function soundTip(sound, t) {
  const { about, tracks, value } = sound;
  const words = [seconds(t / about.rate, 4), ...tracks.map(({ name, samples }) => `${name} ${number(samples[t], 4)}`)];
  if (sound.residual) words.push(`residual ${number(sound.residual[t], 4)}`);
  if (about.along) words.push(`${about.figure}: ${number(about.along[Math.floor(t / about.window)] ?? NaN)}`);
  if (value?.bytes) {
    const at = sound.unit * 2 * value.windows + Math.floor(t / value.size);
    const [low, high] = [value.bytes[at], value.bytes[at + value.windows]].map((level) => real(value, sound.unit, level));
    words.push(`${value.layer}.${value.name} ${sound.unit}: ${number(low)}${value.size > 1 ? ` to ${number(high)}` : ""}`);
  }
  return words.join("\n");
}

function showCursor(sound, player) {
  const x = xOf(sound, player.currentTime * sound.about.rate);
  sound.cursor.hidden = x < SOUND_GUTTER || x > soundWidth(sound);
  sound.cursor.style.left = `${x}px`;
}

function follow(sound) {
  if (!sound.playing) return;
  showCursor(sound, sound.playing);
  if (!sound.playing.paused) requestAnimationFrame(() => follow(sound));
}
