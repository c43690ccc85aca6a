/** One set of axes with its lines, drawn by uPlot; it knows curves and pixels, not where they come from. */

/* global uPlot */
import { dots, extent, extentWithin } from "./curves.js";
import { duration, tick } from "./format.js";

const HEIGHT = 220;
const SHORT = 40;
const MARKS = { nan: "×", "+inf": "▲", "-inf": "▼" };
const DURATIONS = [
  ...[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800,
  ],
  ...[3600, 7200, 14400, 21600, 43200, 86400, 172800, 432000, 864000, 8640000],
];

/**
 * `lines`: `{id, slot, colour, dash, x, y, faint, marks}`, ascending in x; `faint` is a second y behind the line.
 * `band`: `{x, low, middle, high}` or null. `onSelect(from, to)`, `onReset()`, `onHover(x or null, left, top)`.
 */
export class Plot {
  constructor(host, { onSelect, onReset, onHover }) {
    this._host = host;
    this._on = { onSelect, onReset, onHover };
    this._plot = null;
    this._shape = "";
    this.lines = [];
    this.marksDrawn = 0;
  }

  /** The width of the axes in CSS pixels. */
  get width() {
    return Math.max(120, this._plot ? this._plot.over.clientWidth : this._host.clientWidth - 70);
  }

  /** Draw this. `options`: `{axis, log, zoom: [from, to] or null, dark}`. */
  show(lines, band, options) {
    this.lines = lines;
    this._band = band;
    this._options = options;
    const shape = JSON.stringify([
      ...[options.axis, options.log, options.dark, band !== null],
      lines.map((line) => [line.id, line.slot, line.faint !== null]),
    ]);
    const data = [null];
    if (band) data.push([band.x, band.high]);
    for (const line of lines) if (line.faint) data.push([line.x, line.faint]);
    for (const line of lines) data.push([line.x, line.y]);
    if (band) data.push([band.x, band.middle]);
    if (shape === this._shape) this._plot.setData(data);
    else this._build(data, shape);
  }

  /** Dim every line but this run's; `null`: none. */
  highlight(runId) {
    if (!this._plot) return;
    for (const series of this._plot.series) {
      if (series?.runId)
        series.alpha = series.usualAlpha * (runId === null || series.runId === runId ? 1 : 0.15);
    }
    this._plot.redraw(false);
  }

  /** As wide as there is room. */
  fit() {
    const width = this._host.clientWidth;
    if (this._plot && width && width !== this._plot.width) this._plot.setSize({ width, height: HEIGHT });
  }

  /** Put the cursor at this share of the width, as a mouse would. */
  point(share) {
    const { clientWidth, clientHeight } = this._plot.over;
    this._plot.setCursor({ left: share * clientWidth, top: clientHeight / 2 });
  }

  /** Where the cursor is: a share of the width, or null. */
  get pointed() {
    const left = this._plot?.cursor.left ?? -1;
    return left < 0 ? null : left / this._plot.over.clientWidth;
  }

  /** The range of x that is shown, if anything is. */
  get range() {
    const x = this._plot?.scales.x;
    return x ? [x.min, x.max] : null;
  }

  hideCursor() {
    this._plot?.setCursor({ left: -10, top: -10 });
  }

  destroy() {
    this._plot?.destroy();
    this._plot = null;
    this._shape = "";
  }

  _build(data, shape) {
    this.destroy();
    this._shape = shape;
    const { axis, log, dark } = this._options;
    const ink = dark ? "#a9b1bd" : "#5b6470";
    const lines = { stroke: dark ? "#2b313b" : "#e8ebef", width: 1 };
    const ticks = { ...lines, size: 4 };
    const common = { stroke: ink, grid: lines, ticks, font: "11px system-ui, sans-serif" };
    this._plot = new uPlot(
      {
        mode: 2,
        ms: 1,
        width: Math.max(160, this._host.clientWidth),
        height: HEIGHT,
        padding: [10, 14, 0, 0],
        legend: { show: false },
        scales: {
          x: { time: axis === "time", auto: true, range: () => this._rangeX() },
          y: { distr: log ? 3 : 1, log: 10, auto: true, range: () => this._rangeY() },
        },
        axes: [
          { ...common, scale: "x", size: 30, gap: 3, ...this._ticksX(axis) },
          {
            ...common,
            scale: "y",
            size: 56,
            gap: 4,
            values: (_, splits) => splits.map(tick),
            ...(log ? decades(lines) : {}),
          },
        ],
        series: [null, ...this._series(dark)],
        cursor: {
          y: false,
          drag: { x: true, y: false, setScale: false, dist: 5 },
          dataIdx: (plot, index) => this._nearestTo(plot, index),
          points: { size: 7, fill: (plot, index) => plot.series[index].colour ?? ink, width: 0 },
          bind: { dblclick: () => () => (this._on.onReset(), null) },
        },
        hooks: {
          draw: [(plot) => this._drawMarks(plot)],
          setSelect: [(plot) => this._selected(plot)],
          setCursor: [(plot) => this._hovered(plot)],
        },
      },
      data,
      this._host,
    );
  }

  _ticksX(axis) {
    if (axis === "time") return { space: 70, size: 42 };
    if (axis === "step") return { values: (_, splits) => splits.map(tick), space: 60 };
    return { values: (_, splits) => splits.map(duration), incrs: DURATIONS, space: 64 };
  }

  _series(dark) {
    const facets = [
      { scale: "x", auto: true, sorted: 1 },
      { scale: "y", auto: true },
    ];
    const plain = { facets, spanGaps: false, pxAlign: 0 };
    const behind = this._band !== null;
    const ink = dark ? "#e7eaee" : "#1c2430";
    const made = [];
    if (behind) {
      const area = { stroke: ink, fill: `${ink}2b`, width: 0, paths: (plot) => this._bandPath(plot) };
      made.push({ ...plain, ...area, points: { show: false } });
    }
    const line = (of, width, alpha, extra) => ({
      ...plain,
      ...{ runId: of.id, stroke: of.colour, dash: of.dash, width, alpha, usualAlpha: alpha },
      ...extra,
    });
    for (const each of this.lines) {
      if (each.faint) made.push(line(each, 1, behind ? 0 : 0.25, { points: { show: false } }));
    }
    for (const each of this.lines) {
      const alone = { colour: behind ? undefined : each.colour, points: this._dots(each.colour) };
      made.push(line(each, behind ? 1 : 1.5, behind ? 0.2 : 1, alone));
    }
    if (behind) made.push({ ...plain, stroke: ink, width: 2, colour: ink, points: this._dots(ink) });
    return made;
  }

  _dots(fill) {
    return {
      show: () => false,
      size: 5,
      fill,
      filter: (plot, index) => {
        const found = dots(plot.data[index][1], SHORT);
        return found.length ? found : null;
      },
    };
  }

  _bandPath(plot) {
    const { x, low, high } = this._band;
    const path = new Path2D();
    const at = (value, scale) => plot.valToPos(value, scale, true);
    const floor = plot.scales.y.min;
    const shown = x.flatMap((_, i) => (low[i] === null && high[i] === null ? [] : [i]));
    shown.forEach((i, n) => path[n ? "lineTo" : "moveTo"](at(x[i], "x"), at(high[i] ?? floor, "y")));
    shown.reverse().forEach((i) => path.lineTo(at(x[i], "x"), at(low[i] ?? floor, "y")));
    path.closePath();
    return { fill: path, stroke: null, clip: null, band: null, gaps: null, flags: 0 };
  }

  _rangeX() {
    const whole = this._options.zoom ?? extent([...this.lines.map((line) => line.x), this._band?.x ?? []]);
    if (!whole) return [0, 1];
    return whole[0] < whole[1] ? whole : [whole[0] - 0.5, whole[1] + 0.5];
  }

  _rangeY() {
    const [from, to] = this._rangeX();
    const curves = this.lines.flatMap((line) => [
      [line.x, line.y],
      ...(line.faint ? [[line.x, line.faint]] : []),
    ]);
    if (this._band) curves.push([this._band.x, this._band.low], [this._band.x, this._band.high]);
    const found = extentWithin(curves, from, to) ?? extentWithin(curves, -Infinity, Infinity);
    if (this._options.log) return found ? uPlot.rangeLog(found[0], found[1], 10, false) : [0.1, 1];
    if (!found) return [0, 1];
    const [low, high] = found;
    // Constants get room of their own; others a little above and below, and more where marks stand at the edge.
    const room = high > low ? (high - low) * 0.05 : Math.abs(low) * 0.1 || 1;
    const kinds = new Set(this.lines.flatMap((line) => line.marks.map(([, kind]) => kind)));
    const below = kinds.has("nan") ? 3 : kinds.has("-inf") ? 2 : 1;
    return [low - below * room, high + (kinds.has("+inf") ? 2 : 1) * room];
  }

  _nearestTo(plot, index) {
    const [x, y] = plot.data[index];
    if (plot.cursor.left < 0 || !plot.series[index].colour) return null;
    const at = nearestShown(x, y, plot.posToVal(plot.cursor.left, "x"));
    return at < 0 ? null : at;
  }

  _selected(plot) {
    if (plot.select.width < 5) return;
    const from = plot.posToVal(plot.select.left, "x");
    const to = plot.posToVal(plot.select.left + plot.select.width, "x");
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this._on.onSelect(from, to);
  }

  _hovered(plot) {
    const { left, top } = plot.cursor;
    if (left < 0 || top < 0) this._on.onHover(null, 0, 0);
    else this._on.onHover(plot.posToVal(left, "x"), left + plot.over.offsetLeft, top);
  }

  /** NaN as a cross and -infinity as a triangle at the lower edge, +infinity as one at the upper. */
  _drawMarks(plot) {
    const { ctx, bbox } = plot;
    const ratio = uPlot.pxRatio;
    const seen = new Set();
    ctx.save();
    ctx.font = `bold ${12 * ratio}px system-ui, sans-serif`;
    ctx.strokeStyle = this._options.dark ? "#1a1f27" : "#ffffff";
    ctx.lineWidth = 3 * ratio;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    for (const line of this.lines) {
      ctx.fillStyle = line.colour;
      for (const [x, kind] of line.marks) {
        const left = Math.round(plot.valToPos(x, "x", true));
        const place = `${Math.round(left / (4 * ratio))} ${kind} ${line.slot}`;
        if (left < bbox.left || left > bbox.left + bbox.width || seen.has(place)) continue;
        seen.add(place);
        const top =
          kind === "+inf" ? bbox.top + 6 * ratio : bbox.top + bbox.height - (kind === "nan" ? 14 : 5) * ratio;
        ctx.strokeText(MARKS[kind], left, top);
        ctx.fillText(MARKS[kind], left, top);
      }
    }
    ctx.restore();
    this.marksDrawn = seen.size;
  }
}

/** A logarithmic axis' lines: only where its labels are. */
function decades(lines) {
  return {
    grid: { ...lines, filter: (_, splits) => splits.map((value) => (isDecade(value) ? value : null)) },
    ticks: { show: false },
  };
}

const isDecade = (value) => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-6;

/** The position closest to `at` that has a value; -1 if none nearby has. */
function nearestShown(x, y, at) {
  let low = 0;
  let high = x.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < at) low = middle + 1;
    else high = middle;
  }
  let left = low - 1;
  let right = low;
  while (left >= 0 && y[left] === null) left--;
  while (right < x.length && y[right] === null) right++;
  if (left < 0) return right < x.length ? right : -1;
  return right >= x.length || at - x[left] < x[right] - at ? left : right;
}
