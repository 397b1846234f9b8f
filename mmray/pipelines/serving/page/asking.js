"use strict";
// How the server is asked: with the key, as a form or as JSON, and what its refusals say.

const byId = id => document.getElementById(id);
const served = { models: [], limits: {} };
const headers = () => byId("key").value ? { Authorization: `Bearer ${byId("key").value}` } : {};

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

class Refused extends Error {
  constructor(status, error = {}, again_s = 0) {
    super(error.message || `the server answered ${status}`);
    this.status = status;
    this.field = error.param;
    this.again_s = again_s;
  }
}

// What is wrong, with the field called as the form calls it; the server begins with its own name of it.
function worded(form, error) {
  const field = fieldsOf(form).find(one => one.name === error.field);
  if (!field) return error.message;
  const own = `${field.name}: `, words = error.message.startsWith(own) ? error.message.slice(own.length) : error.message;
  return `${field.label}: ${words}`;
}

async function ask(route, settings = {}) {
  let answer, text;
  try {
    answer = await fetch(route, { ...settings, headers: { ...headers(), ...settings.headers } });
    text = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "the server does not answer" });
  }
  let told = {};
  try { told = JSON.parse(text); } catch { told = { text }; }
  if (!answer.ok) throw new Refused(answer.status, told.error, Number(answer.headers.get("Retry-After")) || 0);
  return told;
}

function pause(seconds, signal) {
  return new Promise((done, failed) => {
    const stop = () => { clearTimeout(timer); failed(signal.reason); };
    const timer = setTimeout(() => { signal.removeEventListener("abort", stop); done(); }, 1000 * seconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

const given = box => box.type === "file" ? box.files.length > 0 : box.value.trim() !== "";
const needed = (asked, names) => names.some(name => given(asked.elements[name]));

// Files in `files`, all else in `values`: what a form says, as the server reads it and as a program would send it.
function gathered(form, asked) {
  const values = {}, files = {};
  if (asked.elements.model) values.model = asked.elements.model.value;
  for (const field of fieldsOf(form)) {
    const box = asked.elements[field.name];
    if (field.needs && !needed(asked, field.needs)) continue;
    if (field.type === "file") {
      if (box.files.length) files[field.name] = box.files[0];
    } else if (box.value.trim()) {
      const lines = () => box.value.split("\n").map(line => line.trim()).filter(Boolean);
      values[field.name] = field.lines ? lines() : ["number", "range"].includes(field.type) ? Number(box.value) : box.value;
    }
  }
  const sent = Object.keys(files).length > 0 && !form.encoded;
  return { form: form.id, route: form.edits && files.image ? form.edits : form.route, values, files, multipart: form.multipart || sent };
}

const base64 = async one => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => failed(new Refused(0, { message: `${one.name} cannot be read` }));
  reader.readAsDataURL(one);
});

async function posted(request, now) {
  const values = now ? request.values : { ...request.values, background: true };
  if (!request.multipart) {
    const encoded = {};
    for (const [name, one] of Object.entries(request.files)) encoded[name] = await base64(one);
    return { method: "POST", body: JSON.stringify({ ...values, ...encoded }), headers: { "Content-Type": "application/json" } };
  }
  const data = new FormData();
  for (const [name, value] of Object.entries(values)) for (const one of [value].flat()) data.append(name, one);
  for (const [name, one] of Object.entries(request.files)) data.append(name, one, one.name);
  return { method: "POST", body: data };
}
