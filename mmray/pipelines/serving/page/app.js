"use strict";
// The beginning: what is served, the key where one is wanted, the forms, and what this tab had asked before.

function lock(words) {
  byId("state").textContent = words;
  byId("access").hidden = false;
  byId("access").open = true;
  byId("key").focus();
}

function models() {
  const cells = model => [model.id, model.kind, model.weights, `${model.licence || "not known"}${model.non_commercial ? ", non-commercial" : ""}`];
  const lines = served.models.map(model => element("tr", {}, ...cells(model).map(one => element("td", {}, one || ""))));
  byId("models").hidden = false;
  byId("models").firstElementChild.textContent = `${served.models.length} models`;
  byId("models").lastElementChild.replaceChildren(table(["model", "what for", "weights", "licence"], lines));
}

async function begin() {
  const key = byId("key").value;
  try {
    const [found, limits] = await Promise.all([ask("v1/models"), ask("v1/limits")]);
    [served.models, served.limits] = [found.data, limits];
  } catch (error) {
    if (error.status === 401) lock(key ? "This key is not one of this server's." : "This server wants a key.");
    else byId("state").textContent = `No list of what is served: ${error.message}. Load the page again to try again.`;
    return;
  }
  byId("access").hidden = !key;
  byId("access").open = false;
  if (key) sessionStorage.setItem("mmray-key", key);
  const routes = new Set(served.models.flatMap(model => model.routes)), kinds = new Set(served.models.map(model => model.kind));
  const forms = FORMS.filter(form => form.wants ? form.wants.every(kind => kinds.has(kind)) : routes.has(`/${form.route}`));
  byId("state").textContent = forms.length ? "" : "Nothing that is served has a form; see the API.";
  byId("random").hidden = !served.models.some(model => String(model.weights).startsWith("random"));
  models();
  tabs(forms);
  restore();
}

byId("key").value = sessionStorage.getItem("mmray-key") || "";
byId("unlock").addEventListener("submit", event => { event.preventDefault(); begin(); });
begin();
