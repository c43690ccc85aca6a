/** The little table beside the cursor: what every run is at that place. */

import { nearest } from "./curves.js";
import { el } from "./dom.js";
import * as format from "./format.js";
import { swatch } from "./palette.js";

const MOST_ROWS = 14;
const ODD = { nan: "NaN", "+inf": "+∞", "-inf": "−∞" };

export class Readout {
  constructor(host) {
    this._host = host;
    this._table = el("div", { class: "readout", role: "status", hidden: true });
    host.append(this._table);
  }

  hide() {
    this._table.hidden = true;
  }

  /** What `lines` of these runs are at `x` of an axis, and the band; the cursor is at `left`, `top` of the host. */
  show({ x, axis, left, top, range, lines, runs, band }) {
    const slack = (range[1] - range[0]) / 50;
    const rows = [];
    for (const line of lines) {
      // A run that had not begun there, or was over, has no value there.
      if (x < line.x[0] - slack || x > line.x[line.x.length - 1] + slack) continue;
      const at = nearest(line.x, x);
      const run = runs.find((each) => each.id === line.id);
      if (at >= 0 && run) rows.push(lineRow(run, line, at));
    }
    const more = rows.length - MOST_ROWS;
    this._table.replaceChildren(
      el("div", { class: "at" }, format.place(x, axis)),
      ...(band?.rows.length ? [bandRow(band, x)] : []),
      ...rows.slice(0, MOST_ROWS),
      ...(more > 0 ? [el("div", { class: "more" }, `and ${more} more`)] : []),
    );
    this._table.hidden = false;
    // To the right of the cursor where the window has room for it, else to the left.
    const room = document.documentElement.clientWidth - this._host.getBoundingClientRect().left - left - 24;
    const width = this._table.offsetWidth;
    this._table.style.left = `${room >= width ? left + 14 : left - 14 - width}px`;
    this._table.style.top = `${Math.max(4, Math.min(top, 60))}px`;
  }
}

function lineRow(run, line, at) {
  const raw = line.faint?.[at] ?? null;
  return el(
    "div",
    { class: "row" },
    swatch(run.slot),
    el("span", { class: "name" }, run.name),
    el("b", {}, odd(line, at) ?? format.value(line.y[at])),
    raw === null ? null : el("span", { class: "raw" }, `(${format.value(raw)})`),
  );
}

/** NaN or an infinity at this position of a line, in words. */
function odd(line, at) {
  const mark = line.y[at] === null ? line.marks.find(([x]) => x === line.x[at]) : undefined;
  return mark ? ODD[mark[1]] : null;
}

function bandRow({ rows, low, high }, x) {
  const steps = rows.map((row) => row.step);
  const row = rows[nearest(steps, x)];
  const range = `${format.value(Number(row[low]))} … ${format.value(Number(row[high]))}`;
  return el(
    "div",
    { class: "row band" },
    el("span", { class: "name" }, "mean"),
    el("b", {}, format.value(Number(row.mean))),
    el("span", { class: "raw" }, range),
  );
}
