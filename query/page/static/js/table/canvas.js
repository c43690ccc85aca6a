/** A canvas that is as sharp as the screen and as wide as its place, with a tip beside the pointer. */

import { el } from "../dom.js";
import { dark } from "../palette.js";

export class Canvas {
  /**
   * @param {HTMLElement} host
   * @param {{label: string, draw: () => void, hover: (x: number, y: number) => (Node | string)[] | null,
   *   pick: (x: number, y: number) => void}} on
   */
  constructor(host, { label, draw, hover, pick }) {
    this._draw = draw;
    this.element = /** @type {HTMLCanvasElement} */ (
      el("canvas", { class: "runs-plot", role: "img", "aria-label": label })
    );
    this.context = this.element.getContext("2d");
    this._tip = el("div", { class: "readout", role: "status", hidden: true });
    this._host = host;
    host.replaceChildren(this.element, this._tip);
    this._frame = 0;
    this.size = { width: 0, height: 0 };
    new ResizeObserver(() => this.later()).observe(host);
    this.element.addEventListener("pointermove", (event) =>
      this._show(hover(event.offsetX, event.offsetY), event.offsetX, event.offsetY),
    );
    this.element.addEventListener("pointerleave", () => (hover(-1, -1), this._show(null, 0, 0)));
    this.element.addEventListener("click", (event) => pick(event.offsetX, event.offsetY));
  }

  /** Draw in the next frame, however often this is called before it. */
  later() {
    if (this._frame) return;
    this._frame = requestAnimationFrame(() => {
      this._frame = 0;
      this._fit();
      if (this.size.width) this._draw();
    });
  }

  _fit() {
    const { clientWidth: width, clientHeight: height } = this._host;
    const ratio = devicePixelRatio || 1;
    this.size = { width, height };
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.element.width !== pixels[0] || this.element.height !== pixels[1])
      [this.element.width, this.element.height] = pixels;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, width, height);
    this.context.font = "11px system-ui, sans-serif";
  }

  _show(nodes, x, y) {
    this._tip.hidden = !nodes;
    this.element.classList.toggle("pointing", Boolean(nodes));
    if (!nodes) return;
    this._tip.replaceChildren(...nodes);
    const left = x + 14 + this._tip.offsetWidth > this.size.width ? x - 14 - this._tip.offsetWidth : x + 14;
    this._tip.style.left = `${Math.max(0, left)}px`;
    this._tip.style.top = `${Math.max(0, Math.min(y + 8, this.size.height - this._tip.offsetHeight))}px`;
  }
}

/** Colours of what is drawn beside the runs, on a page of this brightness. */
export const inks = () =>
  dark.matches
    ? { ink: "#e7eaee", quiet: "#a9b1bd", line: "#2b313b", plain: "#6b7888" }
    : { ink: "#1c2430", quiet: "#5b6470", line: "#e2e6ea", plain: "#9aa6b2" };

/** A text that fits a width, with an ellipsis where it does not. */
export function fitted(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length--;
  return `${text.slice(0, length)}…`;
}
