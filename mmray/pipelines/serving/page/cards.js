"use strict";
// A card for each request: its progress, its end, its result. Jobs are followed by asking, not by an open line for each:
// browsers hold six lines to a server, and the seventh request would wait for a job to end.

const POLL_S = .5, LOST_S = 2, TRIES = 60;
const MEMORY = "mmray-jobs", REMEMBERED = 50;

// The jobs of this tab, so that they are there again after a reload; of files only the names.
function remembered() {
  try { return JSON.parse(sessionStorage.getItem(MEMORY)) || []; } catch { return []; }
}

function remember(id, request) {
  const kept = remembered().filter(one => one.id !== id);
  if (request) {
    const files = Object.fromEntries(Object.entries(request.files).map(([name, one]) => [name, { name: one.name }]));
    kept.push({ id, request: { ...request, files } });
  }
  sessionStorage.setItem(MEMORY, JSON.stringify(kept.slice(-REMEMBERED)));
}

class Card {
  constructor(request, id = null) {
    this.request = request;
    this.id = id;
    this.form = FORMS.find(form => form.id === request.form);
    this.stop = new AbortController();
    const named = request.values.prompt || request.values.text || request.values.sample || Object.values(request.files).map(one => one.name).join(", ");
    this.title = named ? `${this.form.title}: ${named}` : this.form.title;
    this.bar = element("progress", { "aria-label": "progress" });
    this.state = element("p", { class: "soft state" });
    this.button = element("button", { type: "button", on: { click: () => this.running ? this.cancel() : this.remove() } }, "Cancel");
    this.results = element("div", { class: "results" });
    const how = element("details", {}, element("summary", {}, "Request as curl and Python"), snippets(this.form, request));
    this.root = element("li", { class: "card" }, element("header", {}, element("h3", {}, this.title), this.button),
      this.bar, this.state, this.results, how);
    this.root.card = this;
    this.to("running", "waiting");
    byId("gallery").prepend(this.root);
    byId("none").hidden = true;
  }

  get running() { return this.root.dataset.state === "running"; }

  to(state, words) {
    this.root.dataset.state = state;
    this.state.textContent = words;
    this.state.classList.toggle("bad", state === "failed");
    if (state === "running") return;
    this.bar.remove();
    this.button.textContent = "Remove";
    this.button.disabled = false;
    byId("news").textContent = `${this.title}: ${state}`;
  }

  // Send the request; `refused` is told what is wrong with a field of it, and then there is no card.
  async send(refused) {
    await this.ending(async () => {
      const answer = await this.patient(this.request.route, await posted(this.request, this.form.now));
      if (this.form.now) { this.finished(answer); return; }
      this.id = answer.id;
      remember(this.id, this.request);
      await this.follow();
    }, refused);
  }

  async again() {
    await this.ending(() => this.follow());
  }

  async ending(work, refused = () => {}) {
    try { await work(); } catch (error) {
      if (this.stop.signal.aborted) return; // whoever cancelled has said so
      if (!(error instanceof Refused)) throw error;
      this.to("failed", worded(this.form, error));
      if (error.status === 401) lock("This key is not one of this server's.");
      else if (error.status === 400 && !this.id) { refused(error); this.remove(); }
    }
  }

  // Ask, again and again where the server is busy or, for what changes nothing, does not answer.
  async patient(route, settings = {}) {
    for (let tries = 1; ; tries++) {
      try { return await ask(route, { ...settings, signal: this.stop.signal }); } catch (error) {
        const again_s = error.again_s || (error.status === 0 && !settings.method ? LOST_S : 0);
        if (!again_s || tries === TRIES) throw error;
        this.state.textContent = `${error.message}; asking again in ${again_s} s`;
        await pause(again_s, this.stop.signal);
      }
    }
  }

  async follow() {
    for (;;) {
      const job = await this.patient(`v1/jobs/${this.id}`);
      if (job.status === "succeeded") { this.finished(job.result); return; }
      if (job.status === "cancelled") { this.to("cancelled", "Cancelled."); return; }
      if (job.status === "failed") throw new Refused(500, job.error);
      const { done, total } = job.progress;
      if (total) { this.bar.max = total; this.bar.value = done; }
      this.state.textContent = total ? `step ${done} of ${total}` : job.status === "queued" ? "waiting for its turn" : "at work";
      await pause(POLL_S, this.stop.signal);
    }
  }

  finished(answer) {
    this.to("finished", "");
    this.results.replaceChildren(...shown(this.form, answer));
  }

  async cancel() {
    this.button.disabled = true;
    let words = "Cancelled.";
    if (this.id) {
      try { await ask(`v1/jobs/${this.id}`, { method: "DELETE" }); } catch (error) { words = `Left alone, and it may go on: ${error.message}.`; }
    }
    this.stop.abort();
    this.to("cancelled", words);
  }

  remove(forgotten = false) {
    if (this.id) remember(this.id, null);
    if (this.id && !forgotten) ask(`v1/jobs/${this.id}`, { method: "DELETE" }).catch(() => {}); // the server forgets it anyway
    for (const one of this.results.querySelectorAll("[src^='blob:']")) for (const url of [one.src, one.poster]) URL.revokeObjectURL(url);
    if (this.root.contains(document.activeElement)) byId("made").focus();
    this.root.remove();
    byId("none").hidden = byId("gallery").children.length > 0;
  }
}

// Bring back what this tab had asked before it was loaded again; what the server no longer has is left out.
function restore() {
  if (byId("gallery").children.length) return; // another key was given meanwhile
  for (const { id, request } of remembered()) {
    const card = new Card(request, id);
    ask(`v1/jobs/${id}`).then(() => card.again(), error => error.status === 404 ? card.remove(true) : card.again());
  }
}

document.addEventListener("keydown", event => {
  if (event.key !== "Escape" || event.isComposing || event.target.localName === "select") return;
  const own = event.target.closest && event.target.closest(".card"), running = [...byId("gallery").children].filter(one => one.card.running);
  const chosen = running.includes(own) ? own : running[0];
  if (chosen) chosen.card.cancel();
});
