/** Where a column's values stand on an axis or in a range of colours: linear, logarithmic, time, or one place for each text. */

import { moment, tick } from "../format.js";

const MOST_TEXTS = 30;
// Beyond this ratio of the largest to the smallest of positive values an axis is logarithmic: learning rates, losses.
const RATIO = 100;

/**
 * @param {import("./frame.js").Column | undefined} column
 * @param {Iterable<number>} rows
 * @returns {{name: string, log: boolean, text: boolean, place: (row: number) => number, ticks: any[][]} | null}
 *   `place` is from 0 to 1, NaN for a row without a place; `ticks` are
 *   `[place, text]`; `null` if no row has a place
 */
export function scaleOf(column, rows) {
  if (!column) return null;
  return column.numbers ? numeric(column, rows) : texts(column, rows);
}

function numeric(column, rows) {
  const { numbers, name, kind } = column;
  let [low, high] = [Infinity, -Infinity];
  for (const row of rows) {
    const value = numbers[row];
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  const log = kind === "number" || kind === "text" ? low > 0 && high / low >= RATIO : false;
  const [a, b] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const span = b - a;
  const at = (value) => (span ? ((log ? Math.log10(value) : value) - a) / span : 0.5);
  const place = (row) => (Number.isFinite(numbers[row]) ? at(numbers[row]) : NaN);
  const steps = log ? decades(a, b) : even(low, high);
  const written = kind === "time" ? shortTime(span) : tick;
  return { name, log, text: false, place, ticks: steps.map((value) => [at(value), written(value)]) };
}

function even(low, high) {
  if (low === high) return [low];
  const rough = (high - low) / 5;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((each) => each * size >= rough) * size;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step)
    found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

function decades(a, b) {
  const [from, to] = [Math.ceil(a - 1e-9), Math.floor(b + 1e-9)];
  const every = Math.max(1, Math.ceil((to - from + 1) / 7));
  const found = [];
  for (let power = from; power <= to; power += every) found.push(10 ** power);
  return found;
}

const shortTime = (span) => (value) => (span > 172_800_000 ? moment(value).slice(5, 10) : moment(value).slice(5, 16));

function texts(column, rows) {
  const found = new Set();
  for (const row of rows) if (column.values[row] !== null) found.add(column.values[row]);
  if (!found.size) return null;
  const order = [...found].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const places = new Map(order.map((text, at) => [text, order.length > 1 ? at / (order.length - 1) : 0.5]));
  const every = Math.ceil(order.length / MOST_TEXTS);
  return {
    ...{ name: column.name, log: false, text: true },
    place: (row) => places.get(column.values[row]) ?? NaN,
    ticks: order.filter((_, at) => at % every === 0).map((text) => [places.get(text), text]),
  };
}

// Viridis, which keeps its order in any colour vision and in print; without its darkest and lightest ends.
const RAMP = ["#433e85", "#31688e", "#20918c", "#35b779", "#90d743", "#dde318"];
const RGB = RAMP.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));

/** The colour of a place between 0 and 1. */
export function ramp(place) {
  const along = Math.min(1, Math.max(0, place)) * (RGB.length - 1);
  const at = Math.min(RGB.length - 2, Math.floor(along));
  const mixed = RGB[at].map((low, i) => Math.round(low + (along - at) * (RGB[at + 1][i] - low)));
  return `rgb(${mixed.join(" ")})`;
}

/** How a column is called on an axis. */
export const label = (scale) => (scale.log ? `${scale.name} (log)` : scale.name);
