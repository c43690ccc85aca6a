/** Runs as points over two columns, shaded by a third; the chosen ones in their own colours. */

import { colour } from "../palette.js";
import { Canvas, fitted, inks } from "./canvas.js";
import { label, ramp, scaleOf } from "./scales.js";

const PAD = { left: 76, right: 20, top: 14, bottom: 40 };
const NEAR = 10;

/** `on`: `{tip(row) -> nodes, pick(row)}`. */
export class Scatter {
  constructor(host, on) {
    this._on = on;
    this._shown = null;
    this._near = -1;
    this.drawn = 0;
    this.canvas = new Canvas(host, {
      label: "Runs as points over two columns; the table holds the same values",
      draw: () => this._draw(),
      hover: (x, y) => this._hover(x, y),
      pick: (x, y) => {
        const row = this._nearest(x, y);
        if (row >= 0) this._on.pick(row);
      },
    });
  }

  /** Show these: `{frame, rows, axes: [x, y], shade, slots: Map of row to slot}`. */
  show(shown) {
    const { frame, rows, axes, shade } = shown;
    const scale = (name) => scaleOf(frame.columns.get(name), rows);
    this._shown = { ...shown, x: scale(axes[0]), y: scale(axes[1]), shade: shade ? scale(shade) : null };
    this.canvas.later();
  }

  _at(row) {
    const { x, y } = this._shown;
    const { width, height } = this.canvas.size;
    return [
      PAD.left + x.place(row) * (width - PAD.left - PAD.right),
      height - PAD.bottom - y.place(row) * (height - PAD.top - PAD.bottom),
    ];
  }

  _draw() {
    const { context } = this.canvas;
    const { x, y, rows, shade, slots } = this._shown ?? {};
    const { quiet, plain, ink } = inks();
    this.drawn = 0;
    this._placed = [];
    if (!x || !y) {
      context.fillStyle = quiet;
      context.fillText("No run has values in both columns", PAD.left, 40);
      return;
    }
    this._axes(x, y);
    const several = rows.length > 3_000;
    const size = several ? 1.6 : 3.2;
    context.globalAlpha = several ? 0.6 : 0.75;
    for (const row of rows) {
      const [left, top] = this._at(row);
      if (left !== left || top !== top) continue;
      this.drawn++;
      this._placed.push(row, left, top);
      if (slots.has(row)) continue;
      const place = shade ? shade.place(row) : NaN;
      context.fillStyle = place === place ? ramp(place) : plain;
      context.beginPath();
      context.arc(left, top, size, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
    for (const [row, slot] of slots) this._mark(row, colour(slot), 5);
    if (this._near >= 0) this._mark(this._near, ink, 6, true);
  }

  _mark(row, fill, size, ring = false) {
    const { context } = this.canvas;
    const [left, top] = this._at(row);
    if (left !== left || top !== top) return;
    context.beginPath();
    context.arc(left, top, size, 0, 2 * Math.PI);
    context.lineWidth = ring ? 2 : 1.5;
    context.strokeStyle = ring ? fill : inks().ink;
    context.fillStyle = fill;
    if (!ring) context.fill();
    context.stroke();
  }

  _axes(x, y) {
    const { context, size } = this.canvas;
    const { width, height } = size;
    const { ink, quiet, line } = inks();
    const [right, bottom] = [width - PAD.right, height - PAD.bottom];
    context.strokeStyle = line;
    context.fillStyle = quiet;
    context.lineWidth = 1;
    context.textAlign = "center";
    let end = -Infinity;
    for (const [place, text] of x.ticks) {
      const left = PAD.left + place * (right - PAD.left);
      rule(context, left, PAD.top, left, bottom);
      const half = context.measureText(text).width / 2;
      if (left - half < end + 8) continue;
      end = left + half;
      context.fillText(text, left, bottom + 15);
    }
    context.textAlign = "right";
    for (const [place, text] of y.ticks) {
      const top = bottom - place * (bottom - PAD.top);
      rule(context, PAD.left, top, right, top);
      context.fillText(fitted(context, text, PAD.left - 26), PAD.left - 6, top + 4);
    }
    context.fillStyle = ink;
    context.textAlign = "center";
    context.fillText(label(x), (PAD.left + right) / 2, height - 8);
    context.save();
    context.translate(12, (PAD.top + bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(fitted(context, label(y), bottom - PAD.top), 0, 0);
    context.restore();
    context.textAlign = "left";
  }

  _nearest(x, y) {
    let [best, distance] = [-1, NEAR * NEAR];
    const placed = this._placed ?? [];
    for (let at = 0; at < placed.length; at += 3) {
      const far = (placed[at + 1] - x) ** 2 + (placed[at + 2] - y) ** 2;
      if (far < distance) [best, distance] = [placed[at], far];
    }
    return best;
  }

  _hover(x, y) {
    const row = this._nearest(x, y);
    if (row !== this._near) {
      this._near = row;
      this.canvas.later();
    }
    return row < 0 ? null : this._on.tip(row);
  }
}

function rule(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(Math.round(x0) + 0.5, Math.round(y0) + 0.5);
  context.lineTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
  context.stroke();
}
