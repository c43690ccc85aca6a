/** Runs as lines across parallel axes, one for each column, shaded by one of them; a drag along an axis lights up a range. */

import { colour } from "../palette.js";
import { Canvas, fitted, inks } from "./canvas.js";
import { label, ramp, scaleOf } from "./scales.js";

const PAD = { left: 46, right: 46, top: 34, bottom: 16 };
const NEAR = 6;
const SHADES = 24;

/** `on`: `{tip(row) -> nodes, pick(row)}`. */
export class Parallel {
  constructor(host, on) {
    this._on = on;
    this._shown = null;
    this._near = -1;
    this._brushes = new Map();
    this._drag = null;
    this.drawn = 0;
    this.canvas = new Canvas(host, {
      label: "Runs as lines across columns; the table holds the same values",
      draw: () => this._draw(),
      hover: (x, y) => this._hover(x, y),
      pick: (x, y) => {
        if (this._dragged) return;
        const row = this._nearest(x, y);
        if (row >= 0) this._on.pick(row);
      },
    });
    const { element } = this.canvas;
    element.addEventListener("pointerdown", (event) => this._grab(event));
    element.addEventListener("pointermove", (event) => this._pull(event));
    element.addEventListener("pointerup", () => (this._drag = null));
    element.addEventListener("dblclick", () => (this._brushes.clear(), this.canvas.later()));
  }

  /** Show these: `{frame, rows, axes: names, shade, slots: Map of row to slot}`. */
  show(shown) {
    const { frame, rows, axes, shade } = shown;
    const scales = axes.map((name) => scaleOf(frame.columns.get(name), rows)).filter(Boolean);
    const shaded = shade ? scaleOf(frame.columns.get(shade), rows) : null;
    this._shown = { ...shown, scales, shade: shaded ?? scales[scales.length - 1] };
    for (const name of this._brushes.keys()) if (!axes.includes(name)) this._brushes.delete(name);
    this.canvas.later();
  }

  /** Rows within every range that is lit up. */
  get lit() {
    const { rows, scales } = this._shown;
    const brushes = scales.flatMap((scale) => {
      const range = this._brushes.get(scale.name);
      return range ? [{ scale, range }] : [];
    });
    return Array.from(rows).filter((row) =>
      brushes.every(({ scale, range }) => scale.place(row) >= range[0] && scale.place(row) <= range[1]),
    );
  }

  _left(axis) {
    const { width } = this.canvas.size;
    const count = this._shown.scales.length;
    return PAD.left + (count > 1 ? axis / (count - 1) : 0.5) * (width - PAD.left - PAD.right);
  }

  _top(place) {
    const { height } = this.canvas.size;
    return height - PAD.bottom - place * (height - PAD.top - PAD.bottom);
  }

  _path(context, row) {
    let pen = false;
    this._shown.scales.forEach((scale, axis) => {
      const place = scale.place(row);
      // A run without a value there has no line to it.
      if (place !== place) return (pen = false);
      context[pen ? "lineTo" : "moveTo"](this._left(axis), this._top(place));
      pen = true;
    });
  }

  _draw() {
    if (!this._shown) return;
    const { context } = this.canvas;
    const { rows, scales, shade, slots } = this._shown;
    const { quiet, plain, line, ink } = inks();
    this.drawn = 0;
    if (scales.length < 2) {
      context.fillStyle = quiet;
      context.fillText("Choose two columns or more that have values", PAD.left, 60);
      return;
    }
    const lit = this.lit;
    const several = lit.length > 500;
    context.lineWidth = several ? 0.7 : 1.1;
    if (lit.length < rows.length) {
      context.strokeStyle = line;
      context.beginPath();
      for (const row of rows) this._path(context, row);
      context.stroke();
    }
    // Lines of one shade are one stroke: ten thousand strokes take ten times as long.
    const shades = new Map();
    for (const row of lit) {
      const place = shade ? shade.place(row) : NaN;
      const key = place === place ? Math.round(place * SHADES) / SHADES : -1;
      if (!shades.has(key)) shades.set(key, []);
      shades.get(key).push(row);
    }
    context.globalAlpha = several ? 0.35 : 0.6;
    for (const [key, members] of shades) {
      context.strokeStyle = key < 0 ? plain : ramp(key);
      context.beginPath();
      for (const row of members) this._path(context, row);
      context.stroke();
    }
    this.drawn = lit.length;
    context.globalAlpha = 1;
    for (const [row, slot] of slots) this._one(row, colour(slot), 2.5);
    if (this._near >= 0) this._one(this._near, ink, 2);
    scales.forEach((scale, axis) => this._axis(scale, axis));
  }

  _one(row, stroke, width) {
    const { context } = this.canvas;
    context.strokeStyle = stroke;
    context.lineWidth = width;
    context.beginPath();
    this._path(context, row);
    context.stroke();
  }

  _axis(scale, axis) {
    const { context, size } = this.canvas;
    const { ink, quiet } = inks();
    const left = this._left(axis);
    const room = (size.width - PAD.left - PAD.right) / (this._shown.scales.length - 1);
    const last = axis === this._shown.scales.length - 1;
    const range = this._brushes.get(scale.name);
    context.strokeStyle = quiet;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(left, this._top(0));
    context.lineTo(left, this._top(1));
    context.stroke();
    if (range) {
      context.fillStyle = `${ink}33`;
      context.fillRect(left - 6, this._top(range[1]), 12, this._top(range[0]) - this._top(range[1]));
    }
    context.fillStyle = quiet;
    context.textAlign = last ? "right" : "left";
    for (const [place, text] of scale.ticks)
      context.fillText(fitted(context, text, room - 16), left + (last ? -7 : 7), this._top(place) + 4);
    context.fillStyle = ink;
    context.textAlign = axis === 0 ? "left" : last ? "right" : "center";
    const edge = axis === 0 ? left - 30 : last ? left + 30 : left;
    context.fillText(fitted(context, label(scale), room - 10), edge, 18);
    context.textAlign = "left";
  }

  _axisNear(x) {
    const found = this._shown?.scales.findIndex((_, axis) => Math.abs(this._left(axis) - x) < 14) ?? -1;
    return found;
  }

  _placeAt(y) {
    return Math.min(1, Math.max(0, (this._top(0) - y) / (this._top(0) - this._top(1))));
  }

  _grab(event) {
    this._dragged = false;
    const axis = this._axisNear(event.offsetX);
    if (axis < 0) return;
    this._drag = { name: this._shown.scales[axis].name, from: event.offsetY };
    this.canvas.element.setPointerCapture(event.pointerId);
  }

  _pull(event) {
    if (!this._drag || Math.abs(event.offsetY - this._drag.from) < 4) return;
    this._dragged = true;
    const ends = [this._placeAt(this._drag.from), this._placeAt(event.offsetY)].sort((a, b) => a - b);
    this._brushes.set(this._drag.name, ends);
    this.canvas.later();
  }

  /** The run whose line passes closest, among those that are lit up. */
  _nearest(x, y) {
    const { scales } = this._shown ?? { scales: [] };
    if (scales.length < 2 || this._drag) return -1;
    let axis = 0;
    while (axis < scales.length - 2 && x > this._left(axis + 1)) axis++;
    const [left, right] = [this._left(axis), this._left(axis + 1)];
    const share = (x - left) / (right - left);
    if (share < 0 || share > 1) return -1;
    let [best, distance] = [-1, NEAR];
    for (const row of this.lit) {
      const [a, b] = [this._top(scales[axis].place(row)), this._top(scales[axis + 1].place(row))];
      const far = Math.abs(a + share * (b - a) - y) / Math.hypot(1, (b - a) / (right - left));
      if (far < distance) [best, distance] = [row, far];
    }
    return best;
  }

  _hover(x, y) {
    const row = x < 0 ? -1 : this._nearest(x, y);
    if (row !== this._near) {
      this._near = row;
      this.canvas.later();
    }
    return row < 0 ? null : this._on.tip(row);
  }
}
