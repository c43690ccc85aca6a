/** What a cell shows. */

import { moment, value as number } from "../format.js";
import { parts } from "./names.js";

const ABOVE = { params: "param", tags: "tag", attributes: "" };
const SAMPLED = 120;
const CHARACTER = 7.3;

/** The two lines of a column's title. */
export function titleOf(name) {
  const { group, key, stat } = parts(name);
  return { title: key.replace(/^mlflow\./, ""), above: ABOVE[group] ?? (stat ? `metric · ${stat}` : "metric") };
}

/** A value as people read it. */
export function shown(column, value) {
  if (value === null || value === undefined) return "";
  if (column.kind === "time") return moment(value);
  return column.kind === "number" ? number(value) : value;
}

/** A run's cell. */
export function runCell(rows, name, row) {
  const column = rows.frame.columns.get(name);
  const value = column?.values[row] ?? null;
  if (value === null) return { text: "–", faint: true };
  const cell = { text: shown(column, value), title: String(value) };
  const extent = column.kind === "number" ? rows.extent(name) : null;
  if (!extent || !Number.isFinite(value)) return cell;
  return { ...cell, share: (value - extent[0]) / (extent[1] - extent[0]) };
}

/** A group's cell: mean and spread of numbers, the text that all have, or how many texts there are. */
export function groupCell(rows, name, group) {
  const column = rows.frame.columns.get(name);
  if (!column) return { text: "–", faint: true };
  if (column.kind === "number") {
    const found = rows.spread(group, name);
    if (!found) return { text: "–", faint: true };
    const off = found.count > 1 ? ` ± ${number(Number(found.std.toPrecision(3)))}` : "";
    const title = `mean ${found.mean}, standard deviation ${found.std}, ${found.min} to ${found.max}, ${found.count} values`;
    const mean = number(Number(found.mean.toPrecision(5)));
    const extent = rows.extent(name);
    return {
      ...{ text: `${mean}${off}`, title },
      ...(extent ? { share: (found.mean - extent[0]) / (extent[1] - extent[0]) } : {}),
    };
  }
  const texts = new Set();
  for (const row of group.rows) texts.add(column.values[row]);
  texts.delete(null);
  if (!texts.size) return { text: "–", faint: true };
  if (texts.size > 1) return { text: `${texts.size} values`, faint: true };
  return { text: shown(column, [...texts][0]) };
}

/** Pixels that a column needs, by a sample of its values. */
export function widthOf(rows, name) {
  const column = rows.frame.columns.get(name);
  const { title, above } = titleOf(name);
  let longest = Math.max(title.length + 2, above.length);
  const every = Math.max(1, Math.floor(rows.runs.length / SAMPLED));
  for (let at = 0; column && at < rows.runs.length; at += every) {
    const text = shown(column, column.values[rows.runs[at]]);
    if (text.length > longest) longest = text.length;
  }
  if (rows.groups.length && column?.kind === "number") longest = Math.max(longest, 18);
  return Math.round(Math.min(280, Math.max(76, longest * CHARACTER + 26)));
}
