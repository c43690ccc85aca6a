/** The lists at the side: experiments, runs, metrics. They show what the page holds and tell it what was chosen. */

import { globPattern } from "./curves.js";
import { byId, debounced, el } from "./dom.js";
import { ago } from "./format.js";
import { swatch } from "./palette.js";
import { mlflowRun } from "./server.js";

const SHOWN = 200;

const hint = (text) => el("p", { class: "hint" }, text);

/** One line with a box to tick. */
function item(name, checked, onchange, { before = null, after = [], title = name } = {}) {
  const box = el("input", { type: "checkbox", onchange: () => onchange(box.checked) });
  box.checked = checked;
  return el(
    "div",
    { class: "item" },
    el("label", { title }, box, before, el("span", { class: "name" }, name)),
    ...after,
  );
}

/** Put these into a list; what has the focus keeps it. */
function fill(list, items) {
  const held = [...list.querySelectorAll("input")].indexOf(document.activeElement);
  const top = list.scrollTop;
  list.replaceChildren(...items);
  list.scrollTop = top;
  if (held >= 0) list.querySelectorAll("input")[held]?.focus({ preventScroll: true });
}

/** A list that stays short: what is chosen first, then the others, as far as there is room. */
function shortened(all, isChosen, make, none) {
  if (!all.length) return [hint(none)];
  const chosen = all.filter(isChosen);
  const shown =
    all.length <= SHOWN ? all : [...chosen, ...all.filter((each) => !isChosen(each))].slice(0, SHOWN);
  const items = shown.map(make);
  if (all.length > shown.length) items.push(hint(`and ${all.length - shown.length} more: search for them`));
  return items;
}

export class Pickers {
  constructor(page) {
    this._page = page;
    byId("experiment-search").addEventListener("input", () => this.showExperiments());
    byId("run-filter").addEventListener(
      "input",
      debounced((event) => this._filtered(event), 350),
    );
    byId("key-globs").addEventListener(
      "input",
      debounced(() => this._typedKeys(), 350),
    );
    // On a phone the curves come first.
    if (matchMedia("(max-width: 760px)").matches) byId("picker").open = false;
  }

  /** The texts of the state, where nobody is typing. */
  showState() {
    const { filter, keys } = this._page.state;
    const texts = { "run-filter": filter, "key-globs": keys.join(", ") };
    for (const [id, text] of Object.entries(texts))
      if (document.activeElement !== byId(id)) byId(id).value = text;
  }

  showExperiments() {
    const page = this._page;
    const searched = byId("experiment-search").value.trim().toLowerCase();
    const chosen = new Set(page.state.experiments);
    const found = page.experiments.filter(
      ({ id, name }) => name.toLowerCase().includes(searched) || id === searched,
    );
    const make = ({ id, name }) =>
      item(name, chosen.has(id), (on) => {
        const others = page.state.experiments.filter((other) => other !== id);
        // Runs go with their experiment.
        const gone = new Set(
          on ? [] : page.chosen.filter((run) => run.experiment === id).map((run) => run.id),
        );
        const runs = page.state.runs.filter((run) => !gone.has(run));
        page.change({ experiments: on ? [...others, id] : others, runs });
      });
    fill(
      byId("experiments"),
      shortened(found, ({ id }) => chosen.has(id), make, "No such experiment"),
    );
  }

  showRuns() {
    const page = this._page;
    const now = Date.now();
    const items = page.listed.map((run) => {
      const chosen = page.chosen.find((each) => each.id === run.id);
      const link = el(
        "a",
        {
          ...{ class: "out", href: mlflowRun(run), title: "This run in MLflow" },
          "aria-label": `${run.name} in MLflow`,
        },
        "↗",
      );
      const running = run.status === "RUNNING" ? el("span", { class: "status", title: "running" }) : null;
      const when = el("span", { class: "when" }, ago(run.start, now));
      const options = {
        before: chosen ? swatch(chosen.slot) : null,
        after: [running, when, link],
        title: `${run.name} (${run.id})`,
      };
      return item(run.name, Boolean(chosen), (on) => page.choose(run.id, on), options);
    });
    if (!items.length) items.push(hint(page.runsKnown ? "No such run" : "Loading …"));
    if (page.moreRuns)
      items.push(el("button", { type: "button", onclick: () => page.loadMoreRuns() }, "More runs"));
    fill(byId("runs"), items);
    byId("run-count").textContent = page.chosen.length ? `${page.chosen.length} chosen` : "";
  }

  showKeys() {
    const page = this._page;
    const matched = new Set(page.matched);
    const make = (key) => item(key, matched.has(key), (on) => this._tick(key, on));
    const none = page.chosen.length ? "No metrics yet" : "Choose a run first";
    fill(
      byId("keys"),
      shortened(page.keys, (key) => matched.has(key), make, none),
    );
    byId("key-count").textContent = page.keys.length ? `${matched.size} of ${page.keys.length}` : "";
  }

  _tick(key, on) {
    const { state, matched } = this._page;
    if (on) return this._page.change({ keys: [...state.keys, key] });
    const keys = state.keys.filter((each) => each !== key);
    // A glob that means it as well gives way to the names it stands for.
    const left = keys.some((each) => globPattern(each).test(key))
      ? matched.filter((each) => each !== key)
      : keys;
    return this._page.change({ keys: left });
  }

  _filtered(event) {
    this._page.change({ filter: event.target.value.trim() });
  }

  _typedKeys() {
    const keys = byId("key-globs")
      .value.split(",")
      .map((each) => each.trim())
      .filter(Boolean);
    this._page.change({ keys: keys.length ? keys : ["*"] });
  }
}
