/** Runs as columns, as the server answers them, and what their values are. Pure; nothing here knows the page. */

import { canonical } from "./names.js";

const TIME = /^attributes\.(start|end)_time$/;
const NUMBERS = new Set(["double", "float64", "float", "int64", "int", "number", "timestamp"]);const collator = new Intl.Collator("en", { numeric: true });

/** One column: `kind` is `number`, `time` (Unix ms) or `text`; a missing value is `null`. */
export class Column {
  constructor(name, type, length = 0) {
    this.name = name;
    this.kind = TIME.test(name) ? "time" : NUMBERS.has(type) || name.startsWith("metrics.") ? "number" : "text";
    /** @type {(string | number | null)[]} */
    this.values = new Array(length).fill(null);
    this._numbers = undefined;
    this._ranks = undefined;
  }

  append(values, before) {
    for (let at = this.values.length; at < before; at++) this.values.push(null);
    const { kind } = this;
    for (const value of values) {
      // NaN and infinities are texts in JSON.
      this.values.push(kind !== "text" && typeof value === "string" ? Number(value) : value);
    }
    this._numbers = undefined;
    this._ranks = undefined;
  }

  /**
   * Its values as numbers, NaN where there is none; `null` if some of its texts are no numbers. Params are texts in
   * MLflow, and numbers most of the time.
   * @returns {Float64Array | null}
   */
  get numbers() {
    if (this._numbers === undefined) this._numbers = numbersOf(this.values, this.kind === "text");
    return this._numbers;
  }

  /** A number for each row that orders as its value does, NaN where there is none: numbers by size, texts as people sort them. */
  get ranks() {
    if (this.numbers) return this.numbers;
    if (!this._ranks) {
      const texts = [...new Set(this.values)].filter((text) => text !== null).sort(collator.compare);
      const places = new Map(texts.map((text, at) => [text, at]));
      this._ranks = Float64Array.from(this.values, (text) => places.get(text) ?? NaN);
    }
    return this._ranks;
  }
}

function numbersOf(values, texts) {
  const numbers = new Float64Array(values.length);
  let seen = !texts;
  for (let row = 0; row < values.length; row++) {
    const value = values[row];
    if (value === null) numbers[row] = NaN;
    else if (!texts) numbers[row] = value;
    else {
      const text = value.trim();
      numbers[row] = text === "" ? NaN : Number(text);
      if (Number.isNaN(numbers[row]) && text.toLowerCase() !== "nan") return null;
      seen = true;
    }
  }
  return seen ? numbers : null;
}

/** Runs, row by row, in the order in which the server gave them. */
export class Frame {
  constructor() {
    this.length = 0;
    /** @type {Map<string, Column>} */
    this.columns = new Map();
    this._rowOf = new Map();
  }

  /** Add a page of the answer: `[{name, type, values}]`. Columns that a page lacks are empty there. */
  append(columns) {
    const before = this.length;
    const count = columns[0]?.values.length ?? 0;
    const seen = new Set();
    for (const { name: answered, type, values } of columns) {
      const name = canonical(answered);
      // One column under two names.
      if (seen.has(name)) continue;
      seen.add(name);
      let column = this.columns.get(name);
      if (!column) this.columns.set(name, (column = new Column(name, type, before)));
      column.append(values, before);
    }
    this.length += count;
    for (const column of this.columns.values()) column.append([], this.length);
    const ids = this.columns.get("attributes.run_id")?.values ?? [];
    for (let row = before; row < this.length; row++) this._rowOf.set(ids[row], row);
  }

  /** The row of a run; `undefined` if it is not here. */
  rowOf(runId) {
    return this._rowOf.get(runId);
  }

  /** A run's value; `null` if there is none. */
  value(name, row) {
    return this.columns.get(name)?.values[row] ?? null;
  }
}
