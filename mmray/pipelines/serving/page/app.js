"use strict";
// The page: forms of what is served, a card for each request with its progress, its result and how to ask by program.

const byId = id => document.getElementById(id);
const served = { models: [], limits: {} };

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

const bytesOf = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const headers = () => byId("key").value ? { Authorization: `Bearer ${byId("key").value}` } : {};

class Refused extends Error {
  constructor(status, error) {
    super(error.message || `the server answered ${status}`);
    this.status = status;
    this.field = error.param;
  }
}

async function ask(route, settings = {}) {
  const answer = await fetch(route, { ...settings, headers: { ...headers(), ...settings.headers } });
  const text = await answer.text();
  let told = {};
  try { told = JSON.parse(text); } catch { told = { text }; }
  if (!answer.ok) throw new Refused(answer.status, told.error || {});
  return told;
}

// ---- forms

function input(form, field) {
  const id = `${form.id}-${field.name}`, most = field.limit && served.limits[field.limit];
  const common = { id, name: field.name, required: field.required, placeholder: field.placeholder };
  let box;
  if (field.type === "area") box = element("textarea", { ...common, maxlength: most });
  else if (field.type === "text") box = element("input", { ...common, type: "text", maxlength: most, pattern: field.pattern });
  else {
    const { type, accept, min, step, value } = field;
    box = element("input", { ...common, type, accept, min, max: most ?? field.max, step, value });
  }
  const label = element("label", { for: id }, field.label);
  if (field.type === "range") {
    const shown = element("output", { for: id }, String(field.value));
    box.addEventListener("input", () => { shown.textContent = box.value; });
    label.append(" ", shown);
  }
  const wide = ["area", "text", "file"].includes(field.type) && !field.placeholder;
  return element("div", { class: wide ? "whole" : "" }, label, box);
}

function panel(form) {
  const models = served.models.filter(model => model.routes.includes(`/${form.route}`));
  const asked = element("form", { id: `form-${form.id}`, novalidate: true });
  if (models.length > 1) {
    const options = models.map(model => element("option", { value: model.id }, model.id));
    const id = `${form.id}-model`;
    asked.append(element("div", { class: "whole" }, element("label", { for: id }, "Model"), element("select", { id, name: "model" }, ...options)));
  }
  for (const field of form.fields) asked.append(input(form, field));
  if (form.weights) {
    const figure = svg("svg", { viewBox: "0 0 360 106", role: "img", "aria-label": "weights of picture and sound over time" });
    const note = element("p", { class: "bad", hidden: true }, "There is a time at which neither works; let one of them last.");
    const draw = () => {
      const own = Object.fromEntries(["sound_weight", "picture_from", "picture_until", "sound_from", "sound_until"].map(
        name => [name, Number(asked.elements[name].value)]));
      note.hidden = !drawWeights(figure, own);
    };
    asked.addEventListener("input", draw);
    asked.append(element("div", { class: "whole" }, figure, note));
    draw();
  }
  const problem = element("p", { class: "whole bad", role: "alert" });
  asked.append(problem, element("button", { class: "go", type: "submit" }, "Ask"));
  asked.addEventListener("submit", event => { event.preventDefault(); send(form, asked, problem); });
  asked.addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) asked.requestSubmit(); });
  const about = models.map(model => [model.id, model.licence, model.non_commercial ? "non-commercial" : null].filter(Boolean).join(", "));
  const notes = [...about.map(words => element("p", { class: "about" }, words))];
  return element("div", { id: `panel-${form.id}`, role: "tabpanel", "aria-labelledby": `tab-${form.id}`, hidden: true }, asked, ...notes);
}

function show(id) {
  for (const tab of byId("tabs").children) {
    const own = tab.id === `tab-${id}`;
    tab.setAttribute("aria-selected", own);
    tab.tabIndex = own ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !own;
  }
}

function tabs(forms) {
  byId("tabs").replaceChildren(...forms.map(form => element("button", {
    id: `tab-${form.id}`, role: "tab", type: "button", "aria-controls": `panel-${form.id}`, on: { click: () => show(form.id) },
  }, form.title)));
  byId("panels").replaceChildren(...forms.map(panel));
  byId("tabs").onkeydown = event => {
    const all = [...byId("tabs").children], now = all.findIndex(tab => tab.tabIndex === 0);
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const tab = all[(next + all.length) % all.length];
    tab.click();
    tab.focus();
  };
  if (forms.length) show(forms[0].id);
}

// ---- a request

const base64 = async one => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => failed(reader.error);
  reader.readAsDataURL(one);
});

async function gathered(form, asked) {
  const values = {}, files = {};
  if (asked.elements.model) values.model = asked.elements.model.value;
  for (const field of form.fields) {
    const box = asked.elements[field.name];
    if (field.needs && !asked.elements[field.needs].files.length) continue;
    if (field.type === "file") {
      if (!box.files.length) continue;
      if (served.limits.upload_bytes && box.files[0].size > served.limits.upload_bytes) {
        throw new Refused(413, { message: `the file is larger than ${served.limits.upload_bytes} bytes`, param: field.name });
      }
      if (field.base64) values[field.name] = await base64(box.files[0]);
      else files[field.name] = box.files[0];
    } else if (box.value.trim()) {
      const lines = () => box.value.split("\n").map(line => line.trim()).filter(Boolean);
      values[field.name] = field.lines ? lines() : ["number", "range"].includes(field.type) ? Number(box.value) : box.value;
    }
  }
  const multipart = form.multipart || Object.keys(files).length > 0;
  const route = form.edits && files.image ? form.edits : form.route;
  return { route, values: form.now ? values : { ...values, background: true }, files, multipart };
}

function body(request) {
  if (!request.multipart) {
    return { method: "POST", body: JSON.stringify(request.values), headers: { "Content-Type": "application/json" } };
  }
  const data = new FormData();
  for (const [name, value] of Object.entries(request.values)) {
    for (const one of Array.isArray(value) ? value : [value]) data.append(name, one);
  }
  for (const [name, one] of Object.entries(request.files)) data.append(name, one, one.name);
  return { method: "POST", body: data };
}

function mark(asked, problem, error) {
  for (const box of asked.elements) box.removeAttribute("aria-invalid");
  const box = error && error.field && asked.elements[error.field];
  if (box) { box.setAttribute("aria-invalid", "true"); box.focus(); }
  const label = box ? `${box.labels[0].firstChild.textContent}: ` : "";
  problem.textContent = error ? label + error.message : "";
}

async function send(form, asked, problem) {
  mark(asked, problem, null);
  const wrong = [...asked.elements].find(box => box.willValidate && !box.validity.valid);
  if (wrong) {
    mark(asked, problem, { field: wrong.name, message: wrong.validationMessage });
    return;
  }
  let request;
  try { request = await gathered(form, asked); } catch (error) { mark(asked, problem, error); return; }
  const card = new Card(form, request);
  try {
    const answer = await ask(request.route, { ...body(request), signal: card.stop.signal });
    if (form.now) card.finished(answer);
    else await card.follow(answer);
  } catch (error) {
    if (error.name === "AbortError") card.failed("cancelled");
    else {
      card.failed(error.message);
      mark(asked, problem, error);
    }
    if (error.status === 401) byId("access").open = true;
  }
}

class Card {
  constructor(form, request) {
    this.request = request;
    this.stop = new AbortController();
    this.bar = element("progress", { "aria-label": "progress" });
    this.state = element("p", { class: "soft", role: "status" }, "waiting");
    this.cancel = element("button", { type: "button", on: { click: () => this.cancelled() } }, "Cancel");
    this.results = element("div");
    const title = request.values.prompt || request.values.text || Object.values(request.files).map(one => one.name).join(", ") || form.title;
    const how = element("details", {}, element("summary", {}, "The request"), ...snippets(request));
    this.root = element("li", { class: "card" }, element("header", {}, element("h3", {}, `${form.title}: ${title}`), this.cancel),
      this.bar, this.state, this.results, how);
    byId("gallery").prepend(this.root);
    byId("none").hidden = true;
  }

  over(words, bad = false) {
    this.bar.remove();
    this.cancel.remove();
    this.state.textContent = words;
    this.state.classList.toggle("bad", bad);
  }

  failed(words) { this.over(words, true); }

  finished(answer) {
    this.over("");
    this.results.replaceChildren(...shown(answer));
  }

  async cancelled() {
    this.cancel.disabled = true;
    if (!this.id) { this.stop.abort(); return; }
    try { await ask(`v1/jobs/${this.id}`, { method: "DELETE" }); } catch (error) { this.state.textContent = error.message; this.cancel.disabled = false; }
  }

  // Read the job's events until it has ended; the browser's own EventSource cannot send a key.
  async follow(job) {
    this.id = job.id;
    const answer = await fetch(`v1/jobs/${job.id}/events`, { headers: headers(), signal: this.stop.signal });
    if (!answer.ok) throw new Refused(answer.status, (await answer.json()).error || {});
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let kept = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      kept += value.replaceAll("\r", "");
      for (let end = kept.indexOf("\n\n"); end >= 0; end = kept.indexOf("\n\n")) {
        const lines = kept.slice(0, end).split("\n");
        kept = kept.slice(end + 2);
        const event = lines.find(line => line.startsWith("event:")), data = lines.filter(line => line.startsWith("data:"));
        if (event && data.length && this.told(event.slice(6).trim(), JSON.parse(data.map(line => line.slice(5)).join("\n")))) return;
      }
    }
    this.failed("the connection ended; the job may go on: ask for it by its id " + job.id);
  }

  told(event, data) {
    if (event === "progress") {
      if (data.total) { this.bar.max = data.total; this.bar.value = data.done; }
      this.state.textContent = data.total ? `step ${data.done} of ${data.total}` : "waiting";
      return false;
    }
    if (event === "succeeded") this.finished(data.result);
    else if (event === "cancelled") this.failed("cancelled");
    else if (event === "failed") this.failed(data.error ? data.error.message : "failed");
    else return false;
    return true;
  }
}

// ---- results

const blob = (text, type) => URL.createObjectURL(new Blob([bytesOf(text)], { type }));

function sound(text, rate) {
  const canvas = element("canvas", { role: "img", "aria-label": "spectrogram" });
  drawSpectrogram(canvas, bytesOf(text), rate || 16000).catch(() => canvas.remove());
  return [canvas, element("audio", { controls: true, src: blob(text, "audio/wav") })];
}

function shown(answer) {
  if (typeof answer.text === "string") return [element("p", {}, answer.text || "(nothing was said)")];
  const rows = answer.data || [];
  if (!rows.length) return [element("p", { class: "soft" }, "nothing was found")];
  if (rows[0].sample_id !== undefined || rows[0].label !== undefined && rows[0].score !== undefined) return [ranked(rows)];
  return rows.flatMap(one => made(one, answer.output_format));
}

function made(one, format) {
  const parts = [];
  if (one.video_b64) parts.push(element("video", { controls: true, src: blob(one.video_b64, "video/mp4") }));
  else if (one.b64_json && format === "wav") parts.push(...sound(one.b64_json, one.rate_hz));
  else if (one.b64_json) parts.push(element("img", { src: blob(one.b64_json, "image/png"), alt: "the picture that was made" }));
  if (one.spectrum_b64) parts.push(element("img", { src: blob(one.spectrum_b64, "image/png"), alt: "its spectrum" }));
  if (one.sound_b64 && !one.video_b64) parts.push(...sound(one.sound_b64, one.rate_hz));
  for (const text of [one.text, one.caption]) if (text) parts.push(element("p", {}, text));
  const scores = Object.entries(one.scores || {}).map(([name, value]) => `${name} ${value.toFixed(3)}`);
  const about = [one.seed === undefined ? null : `seed ${one.seed}`, ...scores].filter(Boolean).join(", ");
  if (about) parts.push(element("p", { class: "about" }, about));
  return parts;
}

function ranked(rows) {
  const cells = row => [row.label ?? "", row.sample_id ?? "", row.text ?? ""].filter(Boolean).join(" - ");
  const lines = rows.map(row => element("tr", {}, element("td", {}, cells(row)), element("td", { class: "n" }, row.score.toFixed(3))));
  return element("table", {}, element("tbody", {}, ...lines));
}

// ---- the same by program

const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
// What JSON writes is Python, but for three words.
const python = value => JSON.stringify(value, null, 1).replace(/("(?:[^"\\]|\\.)*")|\b(true|false|null)\b/g,
  (all, text, word) => text || { true: "True", false: "False", null: "None" }[word]);

function snippets(request) {
  const url = new URL(request.route, location.href).href, key = byId("key").value !== "";
  const short = value => typeof value === "string" && value.length > 400 ? `${value.slice(0, 40)}...` : value;
  const values = Object.fromEntries(Object.entries(request.values).filter(([name]) => name !== "background").map(([name, value]) => [name, short(value)]));
  const curl = [`curl ${url}`, ...key ? ['-H "Authorization: Bearer $MMRAY_KEY"'] : []];
  const code = ["import os", "import httpx", ""].slice(key ? 0 : 1);
  const given = key ? ', headers={"Authorization": f"Bearer {os.environ[\'MMRAY_KEY\']}"}' : "";
  if (request.multipart) {
    for (const [name, value] of Object.entries(values)) for (const one of [value].flat()) curl.push(`-F ${quoted(`${name}=${one}`)}`);
    for (const [name, one] of Object.entries(request.files)) curl.push(`-F ${quoted(`${name}=@${one.name}`)}`);
    const files = Object.entries(request.files).map(([name, one]) => `${JSON.stringify(name)}: open(${JSON.stringify(one.name)}, "rb")`);
    code.push(`files = {${files.join(", ")}}`, `answer = httpx.post(${JSON.stringify(url)}, data=${python(values)}, files=files${given}, timeout=None)`);
  } else {
    curl.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(values))}`);
    code.push(`answer = httpx.post(${JSON.stringify(url)}, json=${python(values)}${given}, timeout=None)`);
  }
  code.push("answer.raise_for_status()", "print(answer.json())");
  return [["curl", curl.join(" \\\n  ")], ["Python", code.join("\n")]].flatMap(([name, text]) => {
    const copy = element("button", { type: "button", on: { click: () => navigator.clipboard.writeText(text) } }, `Copy ${name}`);
    return [element("pre", { tabindex: 0, "aria-label": name }, text), copy];
  });
}

// ---- begin

async function begin() {
  try {
    [served.models, served.limits] = [(await ask("v1/models")).data, await ask("v1/limits")];
  } catch (error) {
    byId("access").hidden = error.status !== 401;
    byId("access").open = error.status === 401;
    byId("state").textContent = error.status === 401 ? "This server wants a key." : `The server does not answer: ${error.message}`;
    return;
  }
  byId("access").hidden = !byId("key").value;
  const routes = new Set(served.models.flatMap(model => model.routes));
  const kinds = new Set(served.models.map(model => model.kind));
  const forms = FORMS.filter(form => form.wants ? form.wants.every(kind => kinds.has(kind)) : routes.has(`/${form.route}`));
  byId("state").textContent = served.models.map(model => model.id).join(", ");
  const random = served.models.some(model => String(model.weights).startsWith("random"));
  if (random) byId("state").append(element("strong", { class: "bad" }, " Random weights: what is made here means nothing."));
  tabs(forms);
}

byId("key").value = sessionStorage.getItem("mmray-key") || "";
byId("unlock").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem("mmray-key", byId("key").value);
  begin();
});
begin();
