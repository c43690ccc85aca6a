/** The picture above the table: a scatter or parallel coordinates, over columns that are chosen beside it. */

import { byId, el } from "../dom.js";
import { shown } from "./cells.js";
import { parts } from "./names.js";
import { Parallel } from "./parallel.js";
import { Scatter } from "./scatter.js";

const MOST_AXES = 12;
const SAMPLED = 500;

/** The columns that a picture begins with: what differs between runs, and the first numbers of their metrics. */
export function usualAxes(rows, columns, plot) {
  const varied = columns.filter((name) => {
    const column = rows.frame.columns.get(name);
    if (!column || parts(name).group === "attributes") return false;
    if (column.numbers) return rows.extent(name) !== null;
    return new Set(Array.from(rows.runs.subarray(0, SAMPLED), (row) => column.values[row])).size > 1;
  });
  const params = varied.filter((name) => !name.startsWith("metrics."));
  const metrics = varied.filter((name) => name.startsWith("metrics."));
  if (plot === "scatter") {
    const numeric = params.find((name) => rows.frame.columns.get(name).numbers);
    const x = numeric ?? metrics[1] ?? params[0] ?? "attributes.start_time";
    return [x, metrics[0] ?? x];
  }
  return [...params.slice(0, 5), ...metrics.slice(0, 2)];
}

export class Plots {
  /**
   * @param {import("../store.js").Store<import("../state.js").State>} store
   * @param {{pick: (row: number) => void}} on
   */
  constructor(store, on) {
    this._store = store;
    this._on = on;
    this._kind = "off";
    this._picture = null;
    this._last = null;
  }

  /** How many runs the picture shows. */
  get drawn() {
    return this._picture?.drawn ?? 0;
  }

  /** Draw what was shown last again: in the colours of a darker page. */
  again() {
    this._picture?.canvas.later();
  }

  /** Show these rows and columns as the state says; `slots` are the chosen runs' rows and colours. */
  show(rows, columns, slots) {
    const { plot, axes, shade } = this._store.state;
    this._last = rows;
    byId("plot").hidden = plot === "off";
    if (plot === "off") {
      this._kind = "off";
      this._picture = null;
      return;
    }
    if (this._kind !== plot) {
      this._kind = plot;
      const on = { tip: (row) => this._tip(row), pick: this._on.pick };
      this._picture = new (plot === "scatter" ? Scatter : Parallel)(byId("plot-host"), on);
    }
    const usual = usualAxes(rows, columns, plot);
    const chosen = axes.length ? axes : usual;
    this._axes = plot === "scatter" ? [chosen[0], chosen[1] ?? usual[1]] : chosen;
    this._shade = shade;
    this._showChoices(rows, columns);
    this._picture.show({ frame: rows.frame, rows: rows.runs, axes: this._axes, shade, slots });
  }

  _showChoices(rows, columns) {
    const { plot } = this._store.state;
    const names = [...new Set([...columns, ...this._axes, "attributes.start_time", ...(this._shade ? [this._shade] : [])])];
    const key = JSON.stringify([plot, names, this._axes, this._shade]);
    if (this._choicesKey === key) return;
    this._choicesKey = key;
    const choices =
      plot === "scatter"
        ? [this._select("x", names, this._axes[0], (name) => this._axis(0, name))].concat(
            this._select("y", names, this._axes[1], (name) => this._axis(1, name)),
          )
        : this._chips(names);
    const shade = this._select("Shade", ["", ...names], this._shade, (name) => this._store.change({ shade: name }));
    byId("plot-axes").replaceChildren(...choices, shade);
  }

  _select(label, names, chosen, onchange) {
    const select = el(
      "select",
      { "aria-label": label },
      ...names.map((name) => el("option", { value: name }, name || "none")),
    );
    /** @type {HTMLSelectElement} */ (select).value = chosen ?? "";
    select.addEventListener("change", () => onchange(/** @type {HTMLSelectElement} */ (select).value));
    return el("label", {}, label, select);
  }

  _axis(at, name) {
    const axes = [...this._axes];
    axes[at] = name;
    this._store.change({ axes });
  }

  _chips(names) {
    const chips = this._axes.map((name) => {
      const leave = () => this._store.change({ axes: this._axes.filter((each) => each !== name) });
      return el(
        "span",
        { class: "chip" },
        el("span", { class: "name" }, name),
        el("button", { type: "button", onclick: leave, "aria-label": `Leave out ${name}` }, "×"),
      );
    });
    const others = names.filter((name) => !this._axes.includes(name));
    if (this._axes.length >= MOST_AXES || !others.length) return chips;
    const add = this._select("Add", ["", ...others], "", (name) => {
      if (name) this._store.change({ axes: [...this._axes, name] });
    });
    return [...chips, add];
  }

  _tip(row) {
    const { frame } = this._last;
    const names = [...new Set([...this._axes, ...(this._shade ? [this._shade] : [])])];
    const line = (name) => {
      const column = frame.columns.get(name);
      const text = column ? shown(column, column.values[row]) || "–" : "–";
      return el("div", { class: "row" }, el("span", { class: "name" }, name), el("b", {}, text));
    };
    const run = String(frame.value("attributes.run_name", row) ?? frame.value("attributes.run_id", row));
    return [el("div", { class: "at" }, run), ...names.map(line)];
  }
}
