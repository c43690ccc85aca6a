/** What is looked at, as the page's address keeps it: whoever opens the address sees the same. */

export const X_AXES = ["step", "time", "relative"];
export const BANDS = ["off", "minmax", "p10p90"];

/** Nothing chosen yet. `from` and `to` are the zoom, in the units of `x` (steps, Unix ms, seconds). */
export const EMPTY = {
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
};

const list = (text) => (text ? text.split(",").filter(Boolean) : []);
const oneOf = (known, text) => (known.includes(text) ? text : known[0]);
const finite = (text) =>
  text === null || text === "" || !Number.isFinite(Number(text)) ? null : Number(text);

/** The state of a query string; whatever makes no sense there is as if it were not there. */
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
  };
}

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
  // Commas and slashes are fine in a query, and easier to read as they are.
  return fields.toString().replaceAll("%2C", ",").replaceAll("%2F", "/");
}
