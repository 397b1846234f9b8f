"use strict";
// What is drawn: weights over time, and the spectrogram of a sound.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

// The share of each modality at each time, from 1 to 0: where both paint they divide it, where one paints it has all;
// above `strength` nobody paints: the imprint stands for it. Returns whether there is a time at which nobody paints.
function drawWeights(figure, own) {
  const width = 360, left = 16, top = 8, low = 84, steps = 100, each = (width - left) / steps;
  const on = (from, until, time) => time <= from && time > until ? 1 : 0;
  const box = (look, step, y, height) => figure.append(svg("rect", { class: look, x: left + each * step, y, width: each + .3, height }));
  figure.replaceChildren();
  let gap = false;
  for (let step = 0; step < steps; step++) {
    const time = 1 - step / steps;
    const picture = on(own.picture_from, own.picture_until, time), sound = on(own.sound_from, own.sound_until, time);
    if (time > own.strength) { box("imprint", step, top, low - top); continue; }
    if (!picture && !sound) { gap = true; continue; }
    const share = (picture && sound ? 1 - own.sound_weight : picture) * (low - top);
    box("picture", step, low - share, share);
    box("sound", step, top, low - top - share);
  }
  figure.append(svg("text", { x: 0, y: top + 9 }, "1"), svg("text", { x: 0, y: low }, "0"));
  figure.append(svg("text", { x: left, y: 100 }, "time 1, noise"), svg("text", { x: width, y: 100, "text-anchor": "end" }, "time 0, result"));
  figure.append(svg("text", { x: (width + left) / 2, y: 100, "text-anchor": "middle" }, ".5"));
  return gap;
}

// Power of the frequencies of 512 samples, by a radix-2 Fourier transform in place.
function powers(real) {
  const n = real.length, imaginary = new Float32Array(n);
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [real[i], real[j]] = [real[j], real[i]];
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let start = 0; start < n; start += size) {
      for (let k = 0; k < size / 2; k++) {
        const angle = -2 * Math.PI * k / size, cos = Math.cos(angle), sin = Math.sin(angle);
        const a = start + k, b = a + size / 2;
        const re = real[b] * cos - imaginary[b] * sin, im = real[b] * sin + imaginary[b] * cos;
        real[b] = real[a] - re; imaginary[b] = imaginary[a] - im;
        real[a] += re; imaginary[a] += im;
      }
    }
  }
  return real.slice(0, n / 2).map((value, k) => value * value + imaginary[k] * imaginary[k]);
}

// Draw what frequencies (upwards) a sound has over time; 80 dB from black to white.
async function drawSpectrogram(canvas, bytes, rate) {
  const sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes.slice().buffer);
  const samples = sound.getChannelData(0), size = 512, columns = 320;
  canvas.width = columns; canvas.height = size / 2;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, size / 2);
  const spectra = [];
  for (let column = 0; column < columns; column++) {
    const from = Math.round(column * Math.max(0, samples.length - size) / (columns - 1)), piece = new Float32Array(size);
    for (let k = 0; k < size; k++) piece[k] = (samples[from + k] || 0) * (.5 - .5 * Math.cos(2 * Math.PI * k / size));
    spectra.push(powers(piece));
  }
  const loudest = Math.max(1e-12, ...spectra.map(one => one.reduce((a, b) => Math.max(a, b), 0)));
  spectra.forEach((spectrum, x) => spectrum.forEach((power, k) => {
    const level = Math.max(0, 1 + Math.log10(power / loudest + 1e-12) / 8), at = 4 * ((size / 2 - 1 - k) * columns + x);
    image.data.set([255 * level ** 1.5, 230 * level ** 2, 60 + 120 * level * (1 - level) + 120 * level ** 4, 255], at);
  }));
  context.putImageData(image, 0, 0);
}
