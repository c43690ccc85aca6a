/**
 * MLflow's search grammar over loaded rows. It reads the plain part of it, as the server does, and nothing else: whatever it does
 * not read is the server's to answer, and to refuse.
 */

import { canonical } from "./names.js";

const TOKEN =
  /\s*(?:(?<text>'[^']*'|"[^"]*")|(?<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w.]))|(?<comparator><=|>=|!=|=|<|>)|(?<mark>[(),])|(?<word>[A-Za-z_](?:\.at\(-?\d+\)|[\w./-]|`[^`]*`|"[^"]*")*))/iy;
const GROUPS = {
  metric: "metrics",
  metrics: "metrics",
  param: "params",
  params: "params",
  parameter: "params",
  parameters: "params",
  tag: "tags",
  tags: "tags",
  attr: "attributes",
  attribute: "attributes",
  attributes: "attributes",
  run: "attributes",
};
const ATTRIBUTES = new Set(["run_id", "run_name", "status", "user_id", "start_time", "end_time"]);
const NUMERIC = {
  "=": (a, b) => a === b,
  "!=": (a, b) => a !== b,
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  ">=": (a, b) => a >= b,
};

function tokens(text) {
  const found = [];
  TOKEN.lastIndex = 0;
  let at = 0;
  while (text.slice(at).trim()) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (!match) return null;
    const [kind, value] = Object.entries(match.groups).find(([, value]) => value !== undefined);
    found.push({ kind, value });
    at = TOKEN.lastIndex;
  }
  return found;
}

/** A name as a column's: `metrics.loss`, ``params.`learning rate` ``; `null` if it means none that is known here. */
function columnName(word) {
  const dot = word.indexOf(".");
  const group = dot < 0 ? "attributes" : GROUPS[word.slice(0, dot).toLowerCase()];
  const key = word.slice(dot + 1);
  if (!group || !key || (group === "attributes" && !ATTRIBUTES.has(key))) return null;
  return canonical(`${group}.${key}`);
}

/**
 * The comparisons of a filter, `[{name, comparator, value}]`; `null` if it is not as plain as that.
 * @param {string} text
 */
export function comparisons(text) {
  const read = tokens(text);
  if (!read) return null;
  const found = [];
  let at = 0;
  const next = () => read[at++] ?? { kind: "end", value: "" };
  const isWord = (token, word) => token.kind === "word" && token.value.toUpperCase() === word;
  while (at < read.length) {
    if (found.length && !isWord(next(), "AND")) return null;
    const word = next();
    const name = word.kind === "word" ? columnName(word.value) : null;
    if (!name) return null;
    const token = next();
    let comparator = token.value.toUpperCase();
    if (comparator === "NOT" && isWord(next(), "IN")) comparator = "NOT IN";
    if (comparator === "IN" || comparator === "NOT IN") {
      const value = listed(next);
      if (!value) return null;
      found.push({ name, comparator, value });
      continue;
    }
    if (token.kind !== "comparator" && comparator !== "LIKE" && comparator !== "ILIKE") return null;
    const { kind, value } = next();
    if (kind !== "text" && kind !== "number") return null;
    const numeric = name.startsWith("metrics.") || name.endsWith("_time");
    // A number where a text belongs, and the other way round, is a mistake: the server says so.
    if (numeric !== (kind === "number") || (numeric && token.kind !== "comparator")) return null;
    if (!numeric && !["=", "!=", "LIKE", "ILIKE"].includes(comparator)) return null;
    found.push({ name, comparator, value: numeric ? Number(value) : value.slice(1, -1) });
  }
  return found;
}

function listed(next) {
  if (next().value !== "(") return null;
  const values = [];
  for (;;) {
    const { kind, value } = next();
    if (kind !== "text") return null;
    values.push(value.slice(1, -1));
    const mark = next();
    if (mark.value === ")") return values;
    if (mark.value !== ",") return null;
  }
}

/**
 * The rows that a filter leaves; `null` if only the server can say.
 * @param {import("./frame.js").Frame} frame
 * @param {string} text
 */
export function filtered(frame, text) {
  const wanted = text.trim() ? comparisons(text) : [];
  if (!wanted) return null;
  const tests = [];
  for (const { name, comparator, value } of wanted) {
    const column = frame.columns.get(name);
    if (!column) return null;
    const test = testOf(column, comparator, value);
    if (!test) return null;
    tests.push(test);
  }
  const rows = new Int32Array(frame.length);
  let count = 0;
  for (let row = 0; row < frame.length; row++) if (tests.every((test) => test(row))) rows[count++] = row;
  return rows.subarray(0, count);
}

/** A test of rows; a run without the value fits nothing, as in MLflow. */
function testOf({ kind, values }, comparator, wanted) {
  if (kind !== "text") {
    // What NaN compares as is the databases' business.
    if (values.some((value) => Number.isNaN(value))) return null;
    const holds = NUMERIC[comparator];
    return holds && ((row) => values[row] !== null && holds(values[row], wanted));
  }
  const test = {
    "=": (value) => value === wanted,
    "!=": (value) => value !== wanted,
    IN: (value) => wanted.includes(value),
    "NOT IN": (value) => !wanted.includes(value),
    LIKE: like(wanted, "s"),
    ILIKE: like(wanted, "is"),
  }[comparator];
  return test && ((row) => values[row] !== null && test(values[row]));
}

function like(wanted, flags) {
  if (typeof wanted !== "string") return null;
  const source = wanted.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&").replaceAll("%", ".*").replaceAll("_", ".");
  const pattern = new RegExp(`^${source}$`, flags);
  return (value) => pattern.test(value);
}
