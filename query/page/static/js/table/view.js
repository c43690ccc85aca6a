/** The table of runs: loads what the state speaks of, lays out its rows, and shows them as a grid and a picture. */

import { byId, el } from "../dom.js";
import { swatch } from "../palette.js";
import * as server from "../server.js";
import { runCell, groupCell, titleOf, widthOf } from "./cells.js";
import { Chooser } from "./chooser.js";
import { csv, groupedCsv, pandas } from "./copies.js";
import { Grid } from "./grid.js";
import { Loader, MOST_RUNS, namesOf } from "./loader.js";
import { parts } from "./names.js";
import { sortOf } from "./order.js";
import { expanded, spokenOf } from "./patterns.js";
import { Plots } from "./plots.js";
import { Rows } from "./rows.js";
import { TableTools } from "./tools.js";

const LEAD = 250;
// Tables of more values than this are loaded anew on request only.
const QUIETLY_AGAIN = 200_000;
/** What of the state the table shows. */
const NAMES = ["view", "experiments", "filter", "cols", "sort", "group", "plot", "axes", "shade", "only", "runs"];

export class TableView {
  /** `page`: `{store, chosen, choose(runId, on), guard(work)}`. */
  constructor(page) {
    this._page = page;
    this._store = page.store;
    this._open = new Set();
    this._widths = new Map();
    /** How long the parts of the last update took, in milliseconds. */
    this.took = {};
    /** @type {string[]} */
    this.columns = [];
    this.loader = new Loader((frame, isNew) => this._arrived(frame, isNew));
    this.rows = new Rows(this.loader.frame, new Int32Array(0), { sort: [], group: [] }, this._open);
    this.chooser = new Chooser(this._store);
    this.grid = new Grid(byId("grid"), {
      onSort: (column, more) => this._sort(this.columns[column], more),
      onPick: (line) => this._pick(this.rows.at(line).row),
      onOpen: (line) => {
        this.rows.toggle(this.rows.at(line).group);
        this._showGrid();
      },
    });
    this.plots = new Plots(this._store, { pick: (row) => this._pick(row) });
    this.tools = new TableTools(this._store, {
      csv: () => this.csv(),
      pandas: () => this.pandas(),
      reload: () => this._page.guard(() => this.loader.load(this._store.state, { quietly: true })),
      more: () => this._page.guard(() => this.loader.more()),
    });
    this._store.on(NAMES, (_, before, changed) => this.update(changed, before));
  }

  get _seen() {
    return this._store.state.view === "table";
  }

  /** Show the state, asking for what is not here. */
  async update(changed = new Set(NAMES), before = null) {
    const { state } = this._store;
    this.tools.show(state);
    if (!this._seen) return;
    if (before && before.experiments.join() !== state.experiments.join()) this.chooser.forget();
    this.chooser.show();
    if (this.loader.covers(state)) return this.layOut(changed);
    byId("grid").setAttribute("aria-busy", "true");
    this.tools.count("Loading …");
    await this._page.guard(async () => {
      const asked = state.experiments.join();
      if (this._named !== asked) {
        this._named = asked;
        namesOf(state.experiments)
          .then((names) => this._named === asked && this.chooser.know(names))
          .catch(() => (this._named = null));
      }
      await this.loader.load(state);
    });
    byId("grid").removeAttribute("aria-busy");
    if (!this.loader.frame.length) this.layOut();
  }

  /** Runs change while one looks. */
  async refresh() {
    if (!this._seen) return;
    const { frame, whole } = this.loader;
    if (!whole || frame.length * frame.columns.size > QUIETLY_AGAIN) return;
    await this.loader.load(this._store.state, { quietly: true });
  }

  _arrived(frame, isNew) {
    if (isNew) this._widths.clear();
    this.layOut();
    this.chooser.know(
      [...frame.columns.keys()].filter((name) => !parts(name).stat && !name.startsWith("attributes.")),
    );
  }

  /** Filter, sort and group what is here, and show it. */
  layOut(changed = new Set(NAMES)) {
    const { state } = this._store;
    const { loader } = this;
    const { frame } = loader;
    const only = [...changed].every((name) => name === "runs");
    if (!only || state.only) {
      const begun = performance.now();
      let runs = loader.rows(state);
      if (state.only) {
        const chosen = new Set(state.runs.map((id) => frame.rowOf(id)));
        runs = runs.filter((row) => chosen.has(row));
      }
      const filteredAt = performance.now();
      this.rows = new Rows(frame, runs, state, this._open);
      this.took = { filter: filteredAt - begun, order: performance.now() - filteredAt };
      this.columns = expanded(state.cols, frame.columns.keys());
    }
    this.tools.groupable(this.chooser.texts);
    this._showGrid();
    this._showPlot();
    this._showCount();
  }

  /** The chosen runs have come, gone, or changed colours. */
  showChosen() {
    if (!this._seen) return;
    this.grid.refresh();
    this._showPlot();
  }

  _showGrid() {
    const { rows, columns } = this;
    const { sort } = this._store.state;
    const sorts = new Map(sort.map(sortOf).map(({ name, down }) => [name, down]));
    this._slots = this._slotsByRow();
    const widths = columns.map((name) => this._width(name));
    this.grid.show({
      columns: columns.map((name, at) => ({
        ...{ name, ...titleOf(name), width: widths[at] },
        right: rows.frame.columns.get(name)?.numbers !== null && rows.frame.columns.has(name),
        sort: sorts.has(name) ? (sorts.get(name) ? "descending" : "ascending") : "",
      })),
      rows: rows.count,
      lead: LEAD,
      leadOf: (line) => this._lead(rows.at(line)),
      cellOf: (line, at) => {
        const { row, group } = rows.at(line);
        return group ? groupCell(rows, columns[at], group) : runCell(rows, columns[at], row);
      },
    });
  }

  _width(name) {
    const key = `${this.rows.names.length > 0} ${name}`;
    if (!this._widths.has(key)) this._widths.set(key, widthOf(this.rows, name));
    return this._widths.get(key);
  }

  _slotsByRow() {
    const found = new Map();
    for (const { id, slot } of this._page.chosen) {
      const row = this.loader.frame.rowOf(id);
      if (row !== undefined) found.set(row, slot);
    }
    return found;
  }

  /** @param {{row?: number, group?: any}} line */
  _lead({ row, group }) {
    const { frame } = this.rows;
    if (group) {
      const expanded = this.rows.isOpen(group);
      const title = group.values.map((value) => value ?? "–").join(", ");
      const count = group.rows.length === 1 ? "1 run" : `${group.rows.length.toLocaleString("en")} runs`;
      const nodes = [
        el("span", { class: "fold", "aria-hidden": "true" }, expanded ? "▾" : "▸"),
        el("span", { class: "name", title }, title),
        el("span", { class: "when" }, count),
      ];
      return { nodes, kind: "group", expanded, version: `${this.rows.keyOf(group)} ${expanded} ${count}` };
    }
    const id = String(frame.value("attributes.run_id", row));
    const name = String(frame.value("attributes.run_name", row) || id.slice(0, 8));
    const status = frame.value("attributes.status", row);
    const slot = this._slots.get(row);
    const address = server.mlflowRun({ id, experiment: String(frame.value("attributes.experiment_id", row)) });
    const nodes = [
      el("span", { class: "tick", "aria-hidden": "true" }, slot === undefined ? "" : "✓"),
      slot === undefined ? "" : swatch(slot),
      el("span", { class: "name", title: `${name} (${id})` }, name),
      el("span", { class: `state ${String(status).toLowerCase()}`, title: String(status).toLowerCase() }),
      el("a", { class: "out", href: address, tabindex: "-1", "aria-label": `${name} in MLflow` }, "↗"),
    ];
    const kind = slot === undefined ? "run" : "run chosen";
    return { nodes, kind, selected: slot !== undefined, version: `${id} ${name} ${status} ${slot} ${kind}` };
  }

  _showPlot() {
    this._slots = this._slotsByRow();
    const within = new Set(this.rows.runs);
    const slots = new Map([...this._slots].filter(([row]) => within.has(row)));
    this.plots.show(this.rows, this.columns, slots);
  }

  _showCount() {
    const { loader, rows } = this;
    const number = (count) => count.toLocaleString("en");
    const shown = rows.runs.length;
    const all = loader.frame.length;
    const runs = shown === all ? `${number(all)} runs` : `${number(shown)} of ${number(all)} runs`;
    const groups = rows.names.length ? ` in ${number(rows.groups.length)} groups` : "";
    const rest = loader.whole ? "" : all >= MOST_RUNS ? ", and there are more" : ", loading more …";
    this.tools.count(`${runs}${groups}, ${number(this.columns.length)} columns${rest}`);
    this.tools.more(!loader.whole && all >= MOST_RUNS);
  }

  _pick(row) {
    const id = String(this.loader.frame.value("attributes.run_id", row));
    this._page.choose(id, !this._store.state.runs.includes(id));
  }

  /** Ascending, then descending, then the server's order again; `more` keeps the other columns. */
  _sort(name, more) {
    const { sort } = this._store.state;
    const own = sort.find((each) => sortOf(each).name === name);
    const others = more ? sort.filter((each) => each !== own) : [];
    const next = own === undefined ? [name] : own.startsWith("-") ? [] : [`-${name}`];
    this._store.change({ sort: [...others, ...next] });
  }

  /** What is shown, as CSV: exact values, or mean and spread of groups. */
  csv() {
    const { rows, columns } = this;
    if (rows.names.length) return groupedCsv(rows, columns);
    return csv(rows.frame, rows.runs, ["attributes.run_id", "attributes.run_name", ...columns]);
  }

  /** Python that gives what is shown. */
  pandas() {
    const { state } = this._store;
    return pandas({
      ...{ server: `${location.origin}${server.PREFIX}`, experiments: state.experiments },
      ...{ filter: server.asFilter(state.filter), columns: spokenOf({ ...state, axes: [], shade: "", sort: [] }) },
      ...{ sort: state.sort, group: state.group, runs: state.only ? state.runs : null },
    });
  }
}
