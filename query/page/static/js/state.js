/** What is looked at, as the page's address keeps it: whoever opens the address sees the same. */

import { canonical } from "./table/names.js";

export const X_AXES = ["step", "time", "relative"];
export const BANDS = ["off", "minmax", "p10p90"];
export const VIEWS = ["curves", "table"];
export const PLOTS = ["off", "scatter", "parallel"];

/**
 * Nothing chosen yet. `from` and `to` are the zoom, in the units of `x` (steps, Unix ms, seconds). Of the table: `cols` are names of
 * columns or globs, `sort` names with a minus where they descend, `group` names, `axes` and `shade` the picture's columns,
 * `only` whether the chosen runs alone are shown.
 */
export const EMPTY = {
  view: "curves",
  experiments: [],
  filter: "",
  runs: [],
  keys: ["*"],
  smooth: 0,
  x: "step",
  log: false,
  bands: "off",
  from: null,
  to: null,
  cols: ["attributes.start_time", "params.*", "metrics.*"],
  sort: [],
  group: [],
  plot: "off",
  axes: [],
  shade: "",
  only: false,
};

/**
 * @typedef {{view: string, experiments: string[], filter: string, runs: string[], keys: string[], smooth: number, x: string,
 *   log: boolean, bands: string, from: number | null, to: number | null, cols: string[], sort: string[], group: string[],
 *   plot: string, axes: string[], shade: string, only: boolean}} State
 */

const list = (text) => (text ? text.split(",").filter(Boolean) : []);
const names = (text) =>
  list(text).map((name) => (name.startsWith("-") ? `-${canonical(name.slice(1))}` : canonical(name)));
const oneOf = (known, text) => (known.includes(text) ? text : known[0]);
const finite = (text) =>
  text === null || text === "" || !Number.isFinite(Number(text)) ? null : Number(text);

/**
 * The state of a query string; whatever makes no sense there is as if it were not there.
 * @param {string} query
 * @returns {State}
 */
export function fromQuery(query) {
  const fields = new URLSearchParams(query);
  const smooth = finite(fields.get("smooth")) ?? 0;
  let [from, to] = [finite(fields.get("from")), finite(fields.get("to"))];
  if (from === null || to === null || from >= to) from = to = null;
  return {
    experiments: list(fields.get("experiments")),
    filter: fields.get("filter") ?? "",
    runs: [...new Set(list(fields.get("runs")))],
    keys: fields.has("keys") ? list(fields.get("keys")) : EMPTY.keys,
    smooth: Math.min(0.99, Math.max(0, smooth)),
    x: oneOf(X_AXES, fields.get("x")),
    log: fields.get("y") === "log",
    bands: oneOf(BANDS, fields.get("bands")),
    from,
    to,
    view: oneOf(VIEWS, fields.get("view")),
    cols: fields.has("cols") ? list(fields.get("cols")) : EMPTY.cols,
    sort: names(fields.get("sort")),
    group: names(fields.get("group")),
    plot: oneOf(PLOTS, fields.get("plot")),
    axes: names(fields.get("axes")),
    shade: names(fields.get("shade"))[0] ?? "",
    only: fields.get("only") === "1",
  };
}

const TABLE_LISTS = ["cols", "sort", "group", "axes"];

/** The query string of a state; only what differs from the usual. */
export function toQuery(state) {
  const fields = new URLSearchParams();
  const set = (name, text) => text && fields.set(name, text);
  set("experiments", state.experiments.join(","));
  set("filter", state.filter);
  set("runs", state.runs.join(","));
  // An empty one means none, a missing one every metric.
  if (state.keys.join(",") !== "*") fields.set("keys", state.keys.join(","));
  set("smooth", state.smooth ? String(state.smooth) : "");
  set("x", state.x === "step" ? "" : state.x);
  set("y", state.log ? "log" : "");
  set("bands", state.bands === "off" ? "" : state.bands);
  if (state.from !== null) {
    fields.set("from", String(state.from));
    fields.set("to", String(state.to));
  }
  set("view", state.view === EMPTY.view ? "" : state.view);
  for (const name of TABLE_LISTS)
    if (String(state[name]) !== String(EMPTY[name])) fields.set(name, state[name].join(","));
  set("plot", state.plot === "off" ? "" : state.plot);
  set("shade", state.shade);
  set("only", state.only ? "1" : "");
  // Commas and slashes are fine in a query, and easier to read as they are.
  return fields.toString().replaceAll("%2C", ",").replaceAll("%2F", "/");
}
