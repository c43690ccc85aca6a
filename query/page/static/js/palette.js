/**
 * Colours of runs: Paul Tol's "vibrant" scheme, which readers with any colour vision can tell apart, a little
 * lighter on dark pages. Where the colours are used up, the same ones come again with another dash.
 */

const LIGHT = ["#0077bb", "#ee7733", "#009988", "#cc3311", "#33aadd", "#ee3377", "#777777"];
const DARK = ["#4ba3e3", "#ff9a5c", "#2cc4b0", "#f2694c", "#7fd3f7", "#ff77aa", "#aaaaaa"];
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

/** Whether the page is dark. */
export const dark = matchMedia("(prefers-color-scheme: dark)");

/** The colour of the run in this place. */
export const colour = (slot) => (dark.matches ? DARK : LIGHT)[slot % LIGHT.length];

/** Its dash, as a canvas takes it. */
export const dash = (slot) => DASHES[Math.floor(slot / LIGHT.length) % DASHES.length];

/** A picture of the line, for lists and legends. */
export function swatch(slot) {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("class", "swatch");
  picture.setAttribute("viewBox", "0 0 22 10");
  picture.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", "M1 5H21");
  line.setAttribute("stroke", colour(slot));
  line.setAttribute("stroke-width", "3");
  line.setAttribute("stroke-dasharray", dash(slot).join(" "));
  picture.append(line);
  return picture;
}
