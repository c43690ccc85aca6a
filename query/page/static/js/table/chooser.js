/** The list of columns at the side: names and globs, and a box for each column there is. */

import { globPattern } from "../curves.js";
import { byId, debounced, el } from "../dom.js";
import { STATISTICS, isGlob, parts, spelled } from "./names.js";
import { expanded } from "./patterns.js";

const SHOWN = 200;
const ATTRIBUTES = ["start_time", "end_time", "status", "user_id", "run_id", "experiment_id"];
const GROUPS = { attributes: "Attributes", params: "Params", metrics: "Metrics", tags: "Tags" };

export class Chooser {
  /** @param {import("../store.js").Store<import("../state.js").State>} store */
  constructor(store) {
    this._store = store;
    this._known = [];
    byId("column-globs").addEventListener(
      "input",
      debounced(() => this._typed(), 350),
    );
    byId("column-search").addEventListener("input", () => this.show());
    for (const id of ["column-stat", "column-step"]) byId(id).addEventListener("input", () => this.show());
    byId("column-stat").append(
      ...[
        ["", "newest"],
        ...STATISTICS.map((stat) => [stat, { min: "best: min", max: "best: max" }[stat] ?? stat]),
        ["at", "at step …"],
      ].map(([value, text]) => el("option", { value }, text)),
    );
  }

  /** Names that the runs are known to have. */
  know(names) {
    this._known = [...new Set([...this._known, ...names])];
    this.show();
  }

  /** Other experiments: what was known is no longer. */
  forget() {
    this._known = [];
  }

  /** Params and tags, MLflow's own aside. */
  get texts() {
    return this._known.filter((name) => name.startsWith("params.") || /^tags\.(?!`?mlflow\.)/.test(name));
  }

  /** What of a metric the boxes stand for. */
  get _stat() {
    const stat = byId("column-stat").value;
    return stat === "at" ? `at(${Math.round(Number(byId("column-step").value) || 0)})` : stat;
  }

  show() {
    const { cols } = this._store.state;
    byId("column-step").hidden = byId("column-stat").value !== "at";
    if (document.activeElement !== byId("column-globs")) byId("column-globs").value = cols.join(", ");
    const searched = byId("column-search").value.trim().toLowerCase();
    const sections = [];
    const shown = new Set(expanded(cols, this.names));
    let room = SHOWN;
    for (const [group, title] of Object.entries(GROUPS)) {
      const names = this.names.filter((name) => {
        const each = parts(name);
        return each.group === group && each.key.toLowerCase().includes(searched);
      });
      if (!names.length) continue;
      const taken = names.slice(0, Math.max(0, room));
      room -= taken.length;
      sections.push(el("h3", { class: "sub" }, title), ...taken.map((name) => this._item(name, shown.has(name))));
      if (taken.length < names.length)
        sections.push(el("p", { class: "hint" }, `and ${names.length - taken.length} more: search for them`));
    }
    const list = byId("columns");
    const top = list.scrollTop;
    const held = /** @type {HTMLElement} */ (document.activeElement)?.dataset?.name;
    list.replaceChildren(...sections);
    list.scrollTop = top;
    const again = held && [...list.querySelectorAll("input")].find((box) => box.dataset.name === held);
    again?.focus({ preventScroll: true });
    byId("column-count").textContent = `${shown.size} shown`;
  }

  /** The names of the boxes: what there is, metrics as the chosen number. */
  get names() {
    const stat = this._stat;
    const metrics = new Set();
    const others = [];
    for (const name of this._known) {
      const each = parts(name);
      if (each.group === "metrics") metrics.add(spelled({ ...each, stat }));
      else others.push(name);
    }
    return [...ATTRIBUTES.map((key) => `attributes.${key}`), ...others, ...metrics];
  }

  _item(name, on) {
    const { key, stat } = parts(name);
    const box = el("input", { type: "checkbox", data: { name } });
    /** @type {HTMLInputElement} */ (box).checked = on;
    box.addEventListener("change", () => this._tick(name, /** @type {HTMLInputElement} */ (box).checked));
    const text = stat ? `${key} · ${stat}` : key;
    return el(
      "div",
      { class: "item" },
      el("label", { title: name }, box, el("span", { class: "name" }, text)),
    );
  }

  _tick(name, on) {
    const { cols } = this._store.state;
    if (on) return this._store.change({ cols: [...cols, name] });
    // A glob that means it as well gives way to the names it stands for.
    const { group, key, stat } = parts(name);
    const means = (pattern) => {
      const each = parts(pattern);
      return each.group === group && each.stat === stat && globPattern(each.key).test(key);
    };
    const left = cols.flatMap((pattern) =>
      isGlob(pattern) && means(pattern) ? expanded([pattern], this.names) : [pattern],
    );
    return this._store.change({ cols: [...new Set(left)].filter((each) => each !== name) });
  }

  _typed() {
    const cols = byId("column-globs")
      .value.split(",")
      .map((each) => each.trim())
      .filter(Boolean)
      // `lr*` alone is meant as a param, a metric or a tag.
      .flatMap((each) => (/^(params|metrics|tags|attributes)\./.test(each) ? [each] : [`params.${each}`, `metrics.${each}`]));
    this._store.change({ cols });
  }
}
