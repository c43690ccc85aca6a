/**
 * A grid of any number of rows and columns, of which only what is seen is in the document. It knows cells and keys; what
 * they mean is its owner's.
 */

import { el } from "../dom.js";

const ROW = 30;
const HEAD = 46;
// Rows and pixels beyond the edges, so that a quick scroll shows no gaps.
const MORE_ROWS = 6;
const MORE_PIXELS = 200;

/**
 * @typedef {object} Shown
 * @property {{name: string, title: string, above: string, width: number, right: boolean, sort: "" | "ascending" | "descending"}[]} columns
 * @property {number} rows
 * @property {number} lead width of the first column, which stays at the left
 * @property {(row: number) => {nodes: (Node | string)[], kind: string, selected?: boolean, expanded?: boolean, version: string}} leadOf
 * @property {(row: number, column: number) => {text: string, title?: string, share?: number, faint?: boolean}} cellOf
 */

export class Grid {
  /**
   * @param {HTMLElement} host
   * @param {{onSort: (column: number, more: boolean) => void, onPick: (row: number) => void, onOpen: (row: number) => void}} on
   */
  constructor(host, on) {
    this.host = host;
    this._on = on;
    /** @type {Shown} */
    this.shown = { columns: [], rows: 0, lead: 260, leadOf: () => null, cellOf: () => null };
    this._lefts = [0];
    this._pool = [];
    this._version = 0;
    this._frame = 0;
    this._active = { row: -1, column: -1 };
    this._head = el("div", { class: "grid-head", role: "row", "aria-rowindex": "1" });
    this._body = el("div", { class: "grid-body", role: "rowgroup" });
    host.append(el("div", { class: "grid-top", role: "rowgroup" }, this._head), this._body);
    host.addEventListener("scroll", () => this._later(), { passive: true });
    host.addEventListener("keydown", (event) => this._pressed(event));
    host.addEventListener("click", (event) => this._clicked(event));
    new ResizeObserver(() => this._later()).observe(host);
  }

  /** Show this instead; the place that is looked at stays where it can. */
  show(shown) {
    this.shown = shown;
    this._lefts = [shown.lead];
    for (const { width } of shown.columns) this._lefts.push(this._lefts[this._lefts.length - 1] + width);
    const [width, height] = [this._lefts[shown.columns.length], shown.rows * ROW];
    this._head.style.width = this._body.style.width = `${width}px`;
    this._body.style.height = `${height}px`;
    this.host.setAttribute("aria-rowcount", String(shown.rows + 1));
    this.host.setAttribute("aria-colcount", String(shown.columns.length + 1));
    this._active.row = Math.min(this._active.row, shown.rows - 1);
    this._active.column = Math.min(this._active.column, shown.columns.length - 1);
    this.refresh();
  }

  /** The same rows and columns, whose cells have changed. */
  refresh() {
    this._version++;
    this._later();
  }

  /** How many elements hold cells now. */
  get cells() {
    return this._pool.reduce((sum, row) => sum + row.cells.length, 0);
  }

  _later() {
    if (this._frame) return;
    this._frame = requestAnimationFrame(() => {
      this._frame = 0;
      this._draw();
    });
  }

  _draw() {
    const { host, shown } = this;
    const { scrollTop, scrollLeft, clientWidth, clientHeight } = host;
    if (!clientHeight) return;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - MORE_ROWS);
    const end = Math.min(shown.rows, Math.ceil((scrollTop + clientHeight - HEAD) / ROW) + MORE_ROWS);
    const [from, to] = this._columnsWithin(scrollLeft + shown.lead, scrollLeft + clientWidth);
    const key = `${this._version} ${from} ${to}`;
    if (this._headKey !== key) this._drawHead(from, to);
    this._headKey = key;
    const size = Math.max(end - first, 0);
    while (this._pool.length < size) this._pool.push(this._newRow());
    // As many as fit the window; more would be left from one that was larger.
    while (this._pool.length > size) this._pool.pop().element.remove();
    const free = new Set(this._pool);
    const left = [];
    const byRow = new Map(this._pool.map((row) => [row.at, row]));
    for (let at = first; at < end; at++) {
      const row = byRow.get(at);
      if (row) free.delete(row);
      if (row?.key !== key) left.push({ at, row });
    }
    const spare = [...free];
    for (const { at, row } of left) this._drawRow(row ?? spare.pop(), at, key, from, to);
    this._markActive();
  }

  /** The columns that are seen between these pixels. */
  _columnsWithin(left, right) {
    const { length } = this.shown.columns;
    let from = 0;
    while (from < length && this._lefts[from + 1] < left - MORE_PIXELS) from++;
    let to = from;
    while (to < length && this._lefts[to] < right + MORE_PIXELS) to++;
    return [from, to];
  }

  _newRow() {
    const lead = el("div", { class: "cell lead", role: "rowheader", "aria-colindex": "1" });
    const element = el("div", { class: "grid-row", role: "row" }, lead);
    this._body.append(element);
    return { element, lead, cells: [], at: -1, key: "", leadKey: "" };
  }

  _drawHead(from, to) {
    const { columns, lead } = this.shown;
    const corner = el("div", { class: "cell lead", role: "columnheader", "aria-colindex": "1" }, "Run");
    corner.style.width = `${lead}px`;
    const titles = [];
    for (let at = from; at < to; at++) {
      const { name, title, above, width, right, sort } = columns[at];
      const arrow = sort === "ascending" ? " ↑" : sort === "descending" ? " ↓" : "";
      const cell = el(
        "div",
        {
          ...{ class: right ? "cell right" : "cell", role: "columnheader", title: `${name}: click to sort` },
          ...{ data: { column: String(at) }, id: `head-${at}` },
          ...{ "aria-colindex": String(at + 2), "aria-sort": sort || "none" },
        },
        el("span", { class: "above" }, above),
        el("span", { class: "title" }, title, arrow),
      );
      this._place(cell, at, width);
      titles.push(cell);
    }
    this._head.replaceChildren(corner, ...titles);
  }

  _place(cell, at, width) {
    cell.style.left = `${this._lefts[at]}px`;
    cell.style.width = `${width}px`;
  }

  _drawRow(row, at, key, from, to) {
    const { shown } = this;
    const { element, cells } = row;
    if (row.at !== at) {
      element.style.top = `${at * ROW}px`;
      element.dataset.row = String(at);
      element.setAttribute("aria-rowindex", String(at + 2));
      row.lead.id = `cell-${at}-lead`;
    }
    const lead = shown.leadOf(at);
    const leadKey = `${at} ${shown.lead} ${lead.version}`;
    if (row.leadKey !== leadKey) {
      row.lead.replaceChildren(...lead.nodes);
      row.lead.style.width = `${shown.lead}px`;
      element.className = `grid-row ${lead.kind}`;
      if (lead.selected === undefined) element.removeAttribute("aria-selected");
      else element.setAttribute("aria-selected", String(lead.selected));
      if (lead.expanded === undefined) element.removeAttribute("aria-expanded");
      else element.setAttribute("aria-expanded", String(lead.expanded));
    }
    Object.assign(row, { at, key, leadKey });
    while (cells.length < to - from) {
      const text = document.createTextNode("");
      const cell = el("div", { role: "gridcell" }, text);
      cells.push({ cell, text });
      element.append(cell);
    }
    while (cells.length > to - from) cells.pop().cell.remove();
    for (let column = from; column < to; column++) {
      const { cell, text } = cells[column - from];
      const { right, width } = shown.columns[column];
      const value = shown.cellOf(at, column);
      text.data = value.text;
      cell.title = value.title ?? "";
      cell.className = `cell${right ? " right" : ""}${value.faint ? " faint" : ""}${value.share === undefined ? "" : " bar"}`;
      if (value.share !== undefined) cell.style.setProperty("--share", `${(100 * value.share).toFixed(1)}%`);
      cell.id = `cell-${at}-${column}`;
      cell.setAttribute("aria-colindex", String(column + 2));
      this._place(cell, column, width);
    }
  }

  _clicked(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.closest("a")) return;
    const head = /** @type {HTMLElement} */ (target.closest(".grid-head [data-column]"));
    if (head) return this._on.onSort(Number(head.dataset.column), event.shiftKey);
    const row = /** @type {HTMLElement} */ (target.closest(".grid-row"));
    if (!row) return;
    const at = Number(row.dataset.row);
    const cell = target.closest(".cell");
    const column = cell?.classList.contains("lead") ? -1 : Number(cell?.getAttribute("aria-colindex")) - 2;
    this._active = { row: at, column: Number.isFinite(column) ? column : -1 };
    this._markActive();
    if (cell?.classList.contains("lead")) this._act(at);
  }

  _act(row) {
    if (this.shown.leadOf(row).expanded !== undefined) this._on.onOpen(row);
    else this._on.onPick(row);
  }

  _pressed(event) {
    if (event.altKey || event.target !== this.host) return;
    const { rows, columns } = this.shown;
    const jump = event.ctrlKey || event.metaKey;
    const page = Math.max(1, Math.floor((this.host.clientHeight - HEAD) / ROW) - 1);
    const { row, column } = this._active;
    const moves = {
      ArrowUp: () => [jump ? 0 : row - 1, column],
      ArrowDown: () => [jump ? rows - 1 : row + 1, column],
      ArrowLeft: () => [row, jump ? -1 : column - 1],
      ArrowRight: () => [row, jump ? columns.length - 1 : column + 1],
      PageUp: () => [row - page, column],
      PageDown: () => [row + page, column],
      Home: () => [jump ? 0 : row, -1],
      End: () => [jump ? rows - 1 : row, columns.length - 1],
    };
    if (moves[event.key]) {
      event.preventDefault();
      const [nextRow, nextColumn] = moves[event.key]();
      // Above the first row is the head, where Enter sorts.
      this._go(nextRow, nextColumn);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (row < 0) {
        if (column >= 0) this._on.onSort(column, event.shiftKey);
      } else this._act(row);
    }
  }

  _go(row, column) {
    const { rows, columns } = this.shown;
    row = Math.min(rows - 1, Math.max(-1, row));
    column = Math.min(columns.length - 1, Math.max(-1, column));
    this._active = { row, column };
    const { host } = this;
    if (row >= 0) {
      const top = row * ROW;
      const seen = host.clientHeight - HEAD;
      if (top < host.scrollTop) host.scrollTop = top;
      else if (top + ROW > host.scrollTop + seen) host.scrollTop = top + ROW - seen;
    }
    if (column >= 0) {
      const [left, right] = [this._lefts[column] - this.shown.lead, this._lefts[column + 1]];
      if (left < host.scrollLeft) host.scrollLeft = left;
      else if (right > host.scrollLeft + host.clientWidth) host.scrollLeft = right - host.clientWidth;
    }
    this._draw();
  }

  _markActive() {
    const { row, column } = this._active;
    const id = row < 0 ? (column < 0 ? "" : `head-${column}`) : `cell-${row}-${column < 0 ? "lead" : column}`;
    this.host.querySelector(".active")?.classList.remove("active");
    const cell = id && document.getElementById(id);
    if (!cell) return this.host.removeAttribute("aria-activedescendant");
    cell.classList.add("active");
    this.host.setAttribute("aria-activedescendant", id);
  }
}
