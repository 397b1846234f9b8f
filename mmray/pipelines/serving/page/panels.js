"use strict";
// The forms as they stand on the page: tabs, fields, what is wrong with a field before anything is sent.

const COMPLAINTS = {
  valueMissing: () => "is needed",
  badInput: () => "must be a number",
  rangeOverflow: box => `at most ${box.max}`,
  rangeUnderflow: box => `at least ${box.min}`,
  stepMismatch: () => "must be a whole number",
};

function input(form, field) {
  const id = `${form.id}-${field.name}`, { type, accept, min, step, value, required, placeholder, pattern } = field;
  const common = { id, name: field.name, required, placeholder };
  const max = type === "number" && field.limit ? served.limits[field.limit] : field.max;
  const box = type === "area"
    ? element("textarea", { ...common, enterkeyhint: field.lines ? null : "send" })
    : element("input", { ...common, type, accept, min, max, step, value, pattern });
  const label = element("label", { for: id }, field.label);
  const wide = field.wide ?? ["area", "text", "file"].includes(type);
  const row = element("div", { class: wide ? "whole" : "", hidden: field.needs, "data-needs": field.needs && field.needs.join(" ") }, label, box);
  if (type === "range") {
    const shown = element("output", { for: id }, String(value));
    box.addEventListener("input", () => { shown.textContent = box.value; });
    label.append(" ", shown);
  }
  if (type === "file") row.append(preview(box));
  return row;
}

// The picture that was chosen, and a way to take it back.
function preview(box) {
  const seen = element("div", { class: "chosen", hidden: true });
  const image = element("img", { alt: "the picture that was chosen" });
  image.addEventListener("error", () => image.remove());
  const without = element("button", { type: "button", on: { click: () => { box.value = ""; box.dispatchEvent(new Event("change", { bubbles: true })); box.focus(); } } }, "Remove");
  box.addEventListener("change", () => {
    const chosen = box.files[0];
    URL.revokeObjectURL(image.src);
    if (chosen && chosen.type.startsWith("image/")) { image.src = URL.createObjectURL(chosen); seen.prepend(image); } else image.remove();
    seen.hidden = !chosen;
  });
  seen.append(without);
  return seen;
}

function section(form, one) {
  if (!one.fields) return input(form, one);
  const about = one.about ? element("p", { class: "whole soft" }, one.about) : null;
  const drawn = one.weights ? element("div", { class: "whole weights" }) : null;
  return element("fieldset", { class: one.weights ? "whole pairs" : "whole" }, element("legend", {}, one.legend), about, drawn, ...one.fields.filter(offered).map(field => input(form, field)));
}

// Show the fields that go with others as soon as one of those is filled.
function watchNeeds(asked) {
  const look = () => {
    for (const row of asked.querySelectorAll("[data-needs]")) row.hidden = !needed(asked, row.dataset.needs.split(" "));
  };
  for (const event of ["input", "change"]) asked.addEventListener(event, look);
}

// Draw who paints when, again whenever that changes.
function watchWeights(asked, home) {
  const figure = svg("svg", { viewBox: "0 0 360 106", role: "img", "aria-label": "weights of picture and sound over time" });
  const key = element("p", { class: "key soft" }, element("i", { class: "of-picture" }), "picture", element("i", { class: "of-sound" }), "sound",
    element("span", { hidden: true }, element("i", { class: "of-imprint" }), "imprint"));
  const note = element("p", { class: "bad", role: "alert" });
  const draw = () => {
    const names = ["sound_weight", "picture_from", "picture_until", "sound_from", "sound_until", "strength"];
    const own = Object.fromEntries(names.map(name => [name, Number(asked.elements[name].value)]));
    const imprinted = needed(asked, ["imprint", "imprint_text"]);
    key.lastChild.hidden = !imprinted;
    const gap = drawWeights(figure, { ...own, strength: imprinted ? own.strength : 1 });
    const said = gap ? "There is a time at which neither paints; let one of them last." : "";
    if (note.textContent !== said) note.textContent = said;
  };
  for (const event of ["input", "change"]) asked.addEventListener(event, draw);
  home.append(figure, key, note);
  draw();
}

function panel(form) {
  const models = served.models.filter(model => form.wants ? form.wants.includes(model.kind) : model.routes.includes(`/${form.route}`));
  const choice = models.filter(model => model.kind === (form.wants || [model.kind])[0]);
  const problem = element("p", { id: `problem-${form.id}`, class: "whole bad", role: "alert" });
  const asked = element("form", { id: `form-${form.id}`, novalidate: true, "aria-label": form.title }, element("p", { class: "whole about" }, form.about));
  if (choice.length > 1) {
    const id = `${form.id}-model`, options = choice.map(model => element("option", { value: model.id }, model.id));
    asked.append(element("div", { class: "whole" }, element("label", { for: id }, "Model"), element("select", { id, name: "model" }, ...options)));
  }
  asked.append(...form.fields.map(one => section(form, one)), problem, element("button", { class: "go whole", type: "submit" }, form.verb));
  watchNeeds(asked);
  for (const home of asked.querySelectorAll(".weights")) watchWeights(asked, home);
  asked.addEventListener("submit", event => { event.preventDefault(); send(form, asked, problem); });
  asked.addEventListener("keydown", event => {
    const alone = event.target.localName === "textarea" && event.target.name !== "labels" && !event.shiftKey && !event.isComposing;
    if (event.key !== "Enter" || !(alone || event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    asked.requestSubmit();
  });
  const by = models.map(model => [model.id, model.licence, model.non_commercial ? "non-commercial use only" : null].filter(Boolean).join(", "));
  return element("div", { id: `panel-${form.id}`, role: "tabpanel", "aria-labelledby": `tab-${form.id}`, hidden: true },
    asked, element("p", { class: "soft by" }, `By ${by.join("; ")}.`));
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

// Return what is wrong with a field, in words.
function complaint(field, box) {
  const most = served.limits[field.limit], bytes = served.limits.upload_bytes;
  if (field.type === "file") {
    if (bytes && box.files.length && box.files[0].size > bytes) return `is larger than ${bytes.toLocaleString("en")} bytes`;
    return field.required && !box.files.length ? "is needed" : null;
  }
  if (field.required && !box.value.trim() && box.validity.valid) return "is needed";
  if (["area", "text"].includes(field.type) && most && [...box.value].length > most) {
    return `has ${[...box.value].length.toLocaleString("en")} characters, and at most ${most.toLocaleString("en")} are read here`;
  }
  const wrong = Object.keys(COMPLAINTS).find(name => box.validity[name]);
  if (wrong) return COMPLAINTS[wrong](box);
  return box.validity.valid ? null : field.hint;
}

function mark(form, asked, problem, error) {
  for (const box of asked.elements) { box.removeAttribute("aria-invalid"); box.removeAttribute("aria-describedby"); }
  problem.textContent = error ? worded(form, error) : "";
  const box = error && error.field && asked.elements[error.field];
  if (!box) return;
  box.setAttribute("aria-invalid", "true");
  box.setAttribute("aria-describedby", problem.id);
  if (asked.contains(document.activeElement) || document.activeElement === document.body) box.focus();
}

async function send(form, asked, problem) {
  mark(form, asked, problem, null);
  for (const field of fieldsOf(form)) {
    const box = asked.elements[field.name], message = box.closest("[hidden][data-needs]") ? null : complaint(field, box);
    if (message) { mark(form, asked, problem, { field: field.name, message }); return; }
  }
  const card = new Card(gathered(form, asked));
  card.root.scrollIntoView({ block: "nearest" });
  await card.send(error => mark(form, asked, problem, error));
}
