/** One metric: asks for its points, keeps them, takes live ones, and shows them in a plot with a readout. */

import { drawable, smooth } from "./curves.js";
import { el } from "./dom.js";
import { colour, dark, dash } from "./palette.js";
import { Plot } from "./plot.js";
import { Readout } from "./readout.js";
import { Points } from "./series.js";
import { Refused, aggregate, points } from "./server.js";

const BAND_AGAIN_MS = 2_000;
const STATS = { minmax: ["mean", "min", "max"], p10p90: ["mean", "p10", "p90"] };

/** `page`: `{state, chosen: [{id, name, slot, start}], zoom(from, to), unzoom(), zoomBy(factor, x)}`. */
export class Chart {
  constructor(key, page) {
    this.key = key;
    this._page = page;
    this._overview = null;
    this._detail = null;
    this._band = null;
    this._filling = new Set();
    this._asking = {};
    this._frame = 0;
    this._visible = false;
    this._wanted = false;
    this._build();
  }

  _build() {
    this._note = el("span", { class: "note" });
    this._host = el("div", {
      ...{ class: "plot", tabindex: "0", role: "group", onkeydown: (event) => this._pressed(event) },
      "aria-label": `Curves of ${this.key}. Arrow keys read values, plus and minus zoom, 0 shows everything.`,
      onblur: () => this._plot.hideCursor(),
    });
    this._message = el("p", { class: "message" }, "Loading …");
    this._host.append(this._message);
    this._readout = new Readout(this._host);
    const title = el("h3", { title: this.key }, this.key);
    this.figure = el("figure", { class: "chart", data: { key: this.key, state: "loading" } });
    this.figure.append(el("figcaption", {}, title, this._note), this._host);
    this._plot = new Plot(this._host, {
      onSelect: (from, to) => this._page.zoom(from, to),
      onReset: () => this._page.unzoom(),
      onHover: (x, left, top) => this._read(x, left, top),
    });
  }

  /** How many points its lines hold now. */
  get drawn() {
    return this._plot.lines.reduce((sum, line) => sum + line.x.length, 0);
  }

  /** What is shown: `{id, x, y, faint, marks}` of each line, the band, and how many marks were drawn. */
  get shown() {
    return {
      lines: this._plot.lines,
      band: this._band,
      marks: this._plot.marksDrawn,
      range: this._plot.range,
    };
  }

  /** Told whether it is on the screen or nearly so: it asks and draws only then. */
  see(visible) {
    this._visible = visible;
    if (!visible) return;
    if (!this._wanted) this.load();
    else if (this._stale) this.draw();
  }

  /** Ask for the points anew, if they were asked for before or are seen. */
  reload() {
    this._wanted = false;
    if (this._visible) this.load();
  }

  /** Points that a screen of this width can show: the smallest and the largest for each pixel. */
  get _limit() {
    return Math.min(4_000, Math.max(300, 2 * Math.round(this._plot.width)));
  }

  async load() {
    this._wanted = true;
    const next = new Points(this._limit);
    const done = await this._alone("overview", next, async (signal) => {
      const rows = await points(this._body({ max_points: next.limit }), signal);
      next.fill(rows);
      this._overview = next;
      this._detail = null;
      this.draw();
    });
    if (done) await Promise.all([this.loadDetail(), this.loadBand()]);
  }

  /** The points of the zoomed range; until they are there the overview's are shown. */
  async loadDetail() {
    const { from, to, x } = this._page.state;
    this._asking.detail?.abort();
    this._detail = null;
    this.draw();
    if (from === null || !this._overview) return;
    // A little more on each side, or the lines would end before the edges.
    const margin = (to - from) / 20;
    /** @type {[number, number]} */
    const range = [from - margin, to + margin];
    const next = new Points(this._limit, (step, time, runId) => {
      const at = this._place(x, step, time, this._start(runId));
      return at >= range[0] && at <= range[1];
    });
    await this._alone("detail", next, async (signal) => {
      const asked = this._ranges(x, range).map((part) =>
        points(this._body({ max_points: next.limit, ...part }), signal),
      );
      next.fill((await Promise.all(asked)).flat());
      this._detail = next;
      this.draw();
    });
  }

  /** Statistics across the runs, a stretch of steps for each pixel. */
  async loadBand() {
    const { bands, x, from, to } = this._page.state;
    this._asking.band?.abort();
    if (bands === "off" || x !== "step" || !this._overview?.count) {
      const had = this._band;
      this._band = null;
      if (had) this.draw();
      return;
    }
    let [first, last] = [Infinity, -Infinity];
    for (const { steps } of this._overview.runs.values()) {
      first = Math.min(first, steps[0]);
      last = Math.max(last, steps[steps.length - 1]);
    }
    if (from !== null) [first, last] = [Math.max(first, Math.floor(from)), Math.min(last, Math.ceil(to))];
    if (first > last) return;
    const every = Math.max(1, Math.ceil((last - first + 1) / Math.round(this._plot.width)));
    // Whole stretches: half of one would say something else than all of it.
    const steps = [Math.floor(first / every) * every, Math.floor(last / every) * every + every - 1];
    const stats = STATS[bands];
    await this._alone("band", null, async (signal) => {
      this._band = {
        rows: await aggregate(this._body({ steps, every, stats }), signal),
        low: stats[1],
        high: stats[2],
      };
      this.draw();
    });
  }

  /** A live point of this metric. */
  add(runId, step, time, value) {
    let changed = false;
    for (const target of new Set([this._overview, this._detail, ...this._filling])) {
      if (target?.add(runId, step, time, value)) changed = true;
    }
    if (!changed) return;
    this.draw();
    if (this._band && !this._bandTimer) {
      this._bandTimer = setTimeout(() => {
        this._bandTimer = 0;
        this.loadBand();
      }, BAND_AGAIN_MS);
    }
  }

  /** Draw in the next frame, however often this is called before it. */
  draw() {
    this._stale = true;
    if (this._frame || !this._visible) return;
    this._frame = requestAnimationFrame(() => {
      this._frame = 0;
      this._draw();
    });
  }

  fit() {
    this._plot.fit();
  }

  highlight(runId) {
    this._plot.highlight(runId);
  }

  destroy() {
    for (const controller of Object.values(this._asking)) controller.abort();
    cancelAnimationFrame(this._frame);
    clearTimeout(this._bandTimer);
    this._plot.destroy();
    this.figure.remove();
  }

  _body(more) {
    return {
      runs: this._page.chosen.map((run) => run.id),
      keys: [this.key],
      ...("max_points" in more ? { method: "minmax" } : {}),
      ...more,
    };
  }

  /** Only the newest question of a kind counts; whether this was it and was answered. What is `filling` takes live points meanwhile. */
  async _alone(kind, filling, work) {
    this._asking[kind]?.abort();
    const controller = new AbortController();
    this._asking[kind] = controller;
    if (filling) this._filling.add(filling);
    try {
      await work(controller.signal);
    } catch (error) {
      if (controller.signal.aborted) return false;
      if (!(error instanceof Refused)) throw error;
      this._say(error.message, "error");
      return false;
    } finally {
      if (filling) this._filling.delete(filling);
    }
    if (filling?.incomplete) this.reload();
    return true;
  }

  _start(runId) {
    return this._page.chosen.find((run) => run.id === runId)?.start ?? 0;
  }

  _place(axis, step, time, start) {
    return axis === "step" ? step : axis === "time" ? time : (time - start) / 1000;
  }

  /** The range of x as ranges that the server knows: one for all runs, or each run's own times. */
  _ranges(axis, [from, to]) {
    const whole = (low, high) => [low, high].map((n, i) => clamp(i ? Math.ceil(n) : Math.floor(n)));
    if (axis === "step") return [{ steps: whole(from, to) }];
    if (axis === "time") return [{ time: whole(from, to) }];
    return this._page.chosen.map((run) => ({
      runs: [run.id],
      time: whole(run.start + 1000 * from, run.start + 1000 * to),
    }));
  }

  _say(text, state) {
    this._message.textContent = text;
    this._message.hidden = !text;
    this.figure.dataset.state = state;
  }

  _draw() {
    this._stale = false;
    const source = this._detail ?? this._overview;
    if (!source) return;
    const { x: axis, log, smooth: weight, from, to } = this._page.state;
    const counts = { nan: 0, "+inf": 0, "-inf": 0 };
    let hidden = 0;
    const band = this._bandCurve(weight, log);
    const lines = [];
    for (const run of this._page.chosen) {
      const series = source.runs.get(run.id);
      if (!series?.steps.length) continue;
      const xs =
        axis === "step"
          ? series.steps.slice()
          : series.times.map((time) => this._place(axis, 0, time, run.start));
      const raw = drawable(xs, series.values, log);
      for (const [x, kind] of raw.marks) if (from === null || (x >= from && x <= to)) counts[kind]++;
      hidden += raw.hidden;
      const y = smooth(raw.y, weight);
      const line = { id: run.id, slot: run.slot, colour: colour(run.slot), dash: dash(run.slot) };
      lines.push({ ...line, x: raw.x, y, faint: weight > 0 && !band ? raw.y : null, marks: raw.marks });
    }
    if (!lines.length) {
      this._plot.destroy();
      this._plot.lines = [];
      this._say("No points of this metric in the chosen runs", "empty");
      this.figure.dataset.points = "0";
      return;
    }
    this._say("", "ready");
    const zoom = from === null ? null : [from, to];
    this._plot.show(lines, band, { axis, log, zoom, dark: dark.matches });
    this._note.textContent = notes(counts, hidden);
    this.figure.dataset.points = String(this.drawn);
    this.figure.dataset.detail = String(this._detail !== null);
  }

  _bandCurve(weight, log) {
    if (!this._band?.rows.length) return null;
    const { rows, low, high } = this._band;
    const column = (name) => {
      const numbers = rows.map((row) => (row[name] === null ? NaN : Number(row[name])));
      return smooth(drawable([], numbers, log).y, weight);
    };
    return { x: rows.map((row) => row.step), middle: column("mean"), low: column(low), high: column(high) };
  }

  _read(x, left, top) {
    if (x === null || !this._plot.lines.length) return this._readout.hide();
    const { lines, range } = this._plot;
    const { chosen: runs, state } = this._page;
    return this._readout.show({ x, axis: state.x, left, top, range, lines, runs, band: this._band });
  }

  _pressed(event) {
    if (!this._plot.lines.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const share = this._plot.pointed;
    const [from, to] = this._plot.range;
    const step = event.shiftKey ? 0.1 : 0.01;
    const middle = from + (share ?? 0.5) * (to - from);
    const acts = {
      ArrowLeft: () => this._plot.point(Math.max(0, (share ?? 0.5) - step)),
      ArrowRight: () => this._plot.point(Math.min(1, (share ?? 0.5) + step)),
      "+": () => this._page.zoom(middle - (to - from) / 4, middle + (to - from) / 4),
      "-": () => this._page.zoom(middle - (to - from), middle + (to - from)),
      0: () => this._page.unzoom(),
      Escape: () => this._plot.hideCursor(),
    };
    acts["="] = acts["+"];
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

function notes(counts, hidden) {
  const found = [];
  if (counts.nan) found.push(`× ${counts.nan} NaN`);
  if (counts["+inf"]) found.push(`▲ ${counts["+inf"]} +∞`);
  if (counts["-inf"]) found.push(`▼ ${counts["-inf"]} −∞`);
  if (hidden) found.push(`${hidden} ${hidden === 1 ? "value" : "values"} ≤ 0 not shown`);
  return found.join("  ");
}

const clamp = (n) => Math.min(Number.MAX_SAFE_INTEGER, Math.max(Number.MIN_SAFE_INTEGER, n));
