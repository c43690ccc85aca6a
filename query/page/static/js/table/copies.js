/** What is shown, as texts for elsewhere: CSV, and the Python that asks for the same. */

import { canonical } from "./names.js";
import { sortOf } from "./order.js";

/** One row of CSV (RFC 4180). */
const line = (cells) =>
  cells.map((cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(",");

/** A value as CSV holds it: exact, not as it is shown. */
function text(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return value;
  return Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "NaN" : value > 0 ? "inf" : "-inf";
}

/**
 * These rows and columns.
 * @param {import("./frame.js").Frame} frame
 * @param {Iterable<number>} rows
 * @param {string[]} names
 */
export function csv(frame, rows, names) {
  const columns = names.map((name) => frame.columns.get(name));
  const lines = [line(names)];
  for (const row of rows) lines.push(line(columns.map((column) => text(column?.values[row]))));
  return `${lines.join("\r\n")}\r\n`;
}

const quoted = (value) => JSON.stringify(value).replaceAll("\u007f", "\\u007f");
const many = (values) => `[${values.map(quoted).join(", ")}]`;

/** A column's name in Python's frames, where attributes go by MLflow's names alone. */
export const pythonName = (name) => name.replace(/^attributes\./, "");

/** The order that the server is asked for. */
export const orderBy = (sorts) =>
  sorts.map((sort) => {
    const { name, down } = sortOf(sort);
    return `${canonical(name)} ${down ? "DESC" : "ASC"}`;
  });

/**
 * Python that gives what the table shows, as a pandas frame.
 * @param {{server: string, experiments: string[], filter: string, columns: string[], sort: string[], group: string[],
 *   runs: string[] | null}} wanted
 */
export function pandas({ server, experiments, filter, columns, sort, group, runs }) {
  const options = [
    many(experiments),
    ...(filter ? [`filter=${quoted(filter)}`] : []),
    `columns=${many(columns)}`,
    ...(sort.length ? [`order_by=${many(orderBy(sort))}`] : []),
  ];
  const lines = [
    "import runstream",
    "",
    `df = runstream.connect(${quoted(server)}).runs(`,
    ...options.map((option) => `    ${option},`),
    ")",
  ];
  if (runs) lines.push(`df = df[df["run_id"].isin(${many(runs)})]`);
  if (group.length) {
    const by = many(group.map(pythonName));
    lines.push(
      `metrics = [name for name in df.columns if name.startswith("metrics.")]`,
      `df.groupby(${by}, dropna=False)[metrics].agg(["mean", "std", "count"])`,
    );
  }
  return `${lines.join("\n")}\n`;
}

/** Groups: their values, how many runs, and mean and standard deviation of each column of numbers. */
export function groupedCsv(rows, names) {
  const numeric = names.filter((name) => rows.frame.columns.get(name)?.kind === "number");
  const lines = [line([...rows.names, "runs", ...numeric.flatMap((name) => [`${name} mean`, `${name} std`])])];
  for (const group of rows.groups) {
    const spreads = numeric.flatMap((name) => {
      const found = rows.spread(group, name);
      return found ? [text(found.mean), found.count > 1 ? text(found.std) : ""] : ["", ""];
    });
    lines.push(line([...group.values.map(text), String(group.rows.length), ...spreads]));
  }
  return `${lines.join("\r\n")}\r\n`;
}
