// A spectrogram: the frequencies in short windows of a sound.

const FLOOR = 90; // dynamic range in decibels

// The radix-2 FFT of real numbers, returned as squared magnitudes; the length must be a power of two.
function powers(signal) {
  const n = signal.length;
  const re = Float64Array.from(signal);
  const im = new Float64Array(n);
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j]] = [re[j], re[i]];
  }
  for (let size = 2; size <= n; size *= 2) {
    const angle = (-2 * Math.PI) / size;
    for (let k = 0; k < size / 2; k++) {
      const [c, s] = [Math.cos(angle * k), Math.sin(angle * k)];
      for (let a = k; a < n; a += size) {
        const b = a + size / 2;
        const [x, y] = [re[b] * c - im[b] * s, re[b] * s + im[b] * c];
        [re[b], im[b], re[a], im[a]] = [re[a] - x, im[a] - y, re[a] + x, im[a] + y];
      }
    }
  }
  return Float64Array.from({ length: n / 2 }, (_, k) => re[k] * re[k] + im[k] * im[k]);
}

// Decibels relative to the loudest point, column by column, lowest frequency first.
function spectrogram(samples, from, to, columns, size) {
  const shape = Float64Array.from({ length: size }, (_, k) => 0.5 - 0.5 * Math.cos((2 * Math.PI * (k + 0.5)) / size));
  const found = new Float32Array(columns * (size / 2));
  let loudest = 1e-9;
  for (let column = 0; column < columns; column++) {
    const middle = Math.round(from + ((column + 0.5) * (to - from)) / columns);
    const windowed = shape.map((weight, k) => weight * (samples[middle - size / 2 + k] ?? 0));
    const power = powers(windowed);
    found.set(power, column * power.length);
    for (const value of power) loudest = Math.max(loudest, value);
  }
  return found.map((value) => Math.max(-FLOOR, 10 * Math.log10(value / loudest + 1e-12)));
}
