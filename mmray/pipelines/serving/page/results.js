"use strict";
// What came of a request: pictures, players with spectrograms, films, texts, and tables of what fits best.

const bytesOf = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));

// A figure of something that can be saved: its words below it, and a link that saves it under a name.
function saved(text, type, name, words, show) {
  const address = URL.createObjectURL(new Blob([bytesOf(text)], { type }));
  const link = element("a", { href: address, download: name }, `Save ${name.split(".").pop()}`);
  return element("figure", {}, ...show(address), element("figcaption", { class: "soft" }, element("span", {}, words), link));
}

const picture = (text, name, words, alt = words) => saved(text, "image/png", name, words, address => [element("img", { src: address, alt })]);
function film(text, still, name, words) {
  const poster = URL.createObjectURL(new Blob([bytesOf(still)], { type: "image/png" }));
  return saved(text, "video/mp4", name, words, address => [element("video", { controls: true, src: address, poster, "aria-label": words })]);
}

function sound(text, rate_hz, name, words) {
  const canvas = element("canvas", { role: "img", "aria-label": "spectrogram" });
  drawSpectrogram(canvas, bytesOf(text), rate_hz).catch(() => canvas.remove());
  const told = `${words}, 0 to ${rate_hz / 2000} kHz`;
  return saved(text, "audio/wav", name, told, address => [canvas, element("audio", { controls: true, src: address, "aria-label": words })]);
}

function shown(form, answer) {
  if (typeof answer.text === "string") return [element("p", { class: "said" }, answer.text || "Nothing was said.")];
  const rows = answer.data || [];
  if (!rows.length) return [element("p", { class: "soft" }, "Nothing was found.")];
  if (rows[0].sample_id !== undefined) return [found(rows), element("p", { class: "soft" }, foundIn(answer))];
  if (rows[0].label !== undefined) return [fitting(rows), ...read(answer.inputs)];
  return rows.map((one, n) => made(form, one, n, answer.output_format));
}

function made(form, one, n, format) {
  const stem = `${form.id}-${one.seed ?? n}`, rate_hz = one.rate_hz || 16000, parts = [];
  const seconds = one.seconds ? `, ${Number(one.seconds.toFixed(2))} s` : "";
  if (one.video_b64) parts.push(film(one.video_b64, one.b64_json, `${stem}.mp4`, `film${seconds}`));
  else if (one.b64_json && format === "wav") parts.push(sound(one.b64_json, rate_hz, `${stem}.wav`, `sound${seconds}`));
  else if (one.b64_json) parts.push(picture(one.b64_json, `${stem}.png`, "picture", "the picture that was made"));
  if (one.spectrum_b64) parts.push(picture(one.spectrum_b64, `${stem}-spectrum.png`, "the spectrogram in it"));
  if (one.sound_b64 && !one.video_b64) parts.push(sound(one.sound_b64, rate_hz, `${stem}.wav`, `its sound${seconds}`));
  for (const text of [one.text, one.caption]) if (text) parts.push(element("p", { class: "said" }, text));
  const scores = Object.entries(one.scores || {}).map(([name, value]) => `${name} ${value.toFixed(3)}`);
  const about = [one.seed === undefined ? null : `seed ${one.seed}`, ...scores].filter(Boolean).join(", ");
  if (about) parts.push(element("p", { class: "soft" }, about));
  return element("div", { class: "one" }, ...parts);
}

const meter = (score, name) => element("meter", { min: 0, max: 1, value: Math.max(0, Math.min(1, score)), "aria-label": `score of ${name}` });

function table(head, lines) {
  const cells = head.map(one => element("th", { scope: "col" }, one));
  return element("table", { class: "whole" }, element("thead", {}, element("tr", {}, ...cells)), element("tbody", {}, ...lines));
}

function fitting(rows) {
  return table(["label", "share", ""], rows.map(row => element("tr", {}, element("th", { scope: "row" }, row.label),
    element("td", {}, meter(row.score, row.label)), element("td", { class: "n" }, row.score.toFixed(3)))));
}

function found(rows) {
  return table(["", "sample", "similarity"], rows.map(row => element("tr", {}, element("td", { class: "n" }, String(row.rank)),
    element("th", { scope: "row" }, element("b", {}, row.sample_id),
      ...[row.label, row.text].filter(Boolean).map(one => element("p", { class: "soft clamped" }, one))),
    element("td", { class: "n" }, row.score.toFixed(3)))));
}

const foundIn = answer => `${answer.compared.toLocaleString("en")} vectors of ${[answer.extractor, answer.pooling].filter(Boolean).join(", ")}`
  + ` were compared${answer.exact ? "" : ", through an index"}.`;

function read(inputs = {}) {
  const lacking = Object.keys(inputs).filter(name => !inputs[name]);
  return lacking.length ? [element("p", { class: "soft" }, `Answered without ${lacking.join(", ")}: the file has nothing for it.`)] : [];
}
