/** What is done to curves before they are drawn. Pure functions over plain arrays; nothing here knows the page. */

/**
 * An exponential moving average as TensorBoard shows it: weight 0 is the curve itself, and what the zero at the
 * start adds is taken out again. `null` and non-finite values are passed over and stay as they are.
 */
export function smooth(values, weight) {
  if (!(weight > 0)) return values;
  const smoothed = new Array(values.length);
  let last = 0;
  let bias = 1;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (value === null || !Number.isFinite(value)) {
      smoothed[i] = value;
      continue;
    }
    last = last * weight + (1 - weight) * value;
    bias *= weight;
    smoothed[i] = last / (1 - bias);
  }
  return smoothed;
}

/**
 * Positions of at most about `limit` values that keep the look of a curve: first, last, the smallest and the
 * largest of each stretch; and of values that are no numbers the first of each kind in a stretch.
 */
export function thinned(values, limit) {
  const count = values.length;
  if (count <= limit) return Array.from({ length: count }, (_, i) => i);
  const stretches = Math.max(1, Math.floor((limit - 2) / 2));
  const kept = new Set([0, count - 1]);
  for (let stretch = 0; stretch < stretches; stretch++) {
    const end = Math.floor(((stretch + 1) * count) / stretches);
    let low = -1;
    let high = -1;
    const odd = new Set();
    for (let i = Math.floor((stretch * count) / stretches); i < end; i++) {
      const value = values[i];
      if (!Number.isFinite(value)) {
        if (!odd.has(value)) kept.add(i);
        odd.add(value);
        continue;
      }
      if (low < 0 || value < values[low]) low = i;
      if (high < 0 || value > values[high]) high = i;
    }
    if (low >= 0) kept.add(low).add(high);
  }
  return [...kept].sort((a, b) => a - b);
}

/** The position in the ascending `xs` that is closest to `x`; -1 if there is none. */
export function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : high < 0 ? -1 : low;
}

/**
 * A curve ready to be drawn: ascending `x`, finite `y` (`null` breaks the line), and `marks` for what has no place
 * on the axis: `[x, kind]`, kind `nan`, `+inf` or `-inf`. `hidden` counts values that a logarithm does not have.
 */
export function drawable(xs, values, logarithmic) {
  let ascending = true;
  for (let i = 1; i < xs.length && ascending; i++) ascending = xs[i] >= xs[i - 1];
  if (!ascending) {
    const order = Array.from(xs.keys()).sort((a, b) => xs[a] - xs[b]);
    values = order.map((i) => values[i]);
    xs = order.map((i) => xs[i]);
  }
  const marks = [];
  let hidden = 0;
  const y = values.map((value, i) => {
    if (Number.isFinite(value)) {
      if (!logarithmic || value > 0) return value;
      hidden++;
      return null;
    }
    marks.push([xs[i], value !== value ? "nan" : value > 0 ? "+inf" : "-inf"]);
    return null;
  });
  return { x: xs, y, marks, hidden };
}

/** Positions that a line would not show: values without a neighbour on either side, or all of a short curve. */
export function dots(y, fewerThan) {
  const found = [];
  const all = y.length < fewerThan;
  for (let i = 0; i < y.length; i++) {
    if (y[i] !== null && (all || ((y[i - 1] ?? null) === null && (y[i + 1] ?? null) === null))) found.push(i);
  }
  return found;
}

/** The smallest and the largest of what lies within `[from, to]` on x, over `[x, y]` pairs; null if nothing does. */
export function extentWithin(curves, from, to) {
  let low = Infinity;
  let high = -Infinity;
  for (const [x, y] of curves) {
    for (let i = 0; i < x.length; i++) {
      const value = y[i];
      if (value === null || x[i] < from || x[i] > to) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}

/** The first and the last x over ascending arrays; null if all are empty. */
export function extent(arrays) {
  let low = Infinity;
  let high = -Infinity;
  for (const x of arrays) {
    if (!x.length) continue;
    low = Math.min(low, x[0]);
    high = Math.max(high, x[x.length - 1]);
  }
  return low <= high ? [low, high] : null;
}

/** A glob of the server (`*` any text, also `/`; `?` one character; `[ab]`, `[!a-z]`) as a regular expression. */
export function globPattern(glob) {
  let out = "";
  for (let at = 0; at < glob.length; at++) {
    const mark = glob[at];
    if (mark === "*") out += ".*";
    else if (mark === "?") out += ".";
    else if (mark === "[") {
      const negated = glob[at + 1] === "!";
      const end = glob.indexOf("]", at + 2 + Number(negated));
      if (end < 0) out += "\\[";
      else {
        const members = glob.slice(at + 1 + Number(negated), end).replace(/[\\\]^]/g, "\\$&");
        out += `[${negated ? "^" : ""}${members}]`;
        at = end;
      }
    } else out += mark.replace(/[\\^$.|+(){}\]]/g, "\\$&");
  }
  try {
    return new RegExp(`^${out}$`, "su");
  } catch {
    return /^(?!)/; // a range that ends before it begins matches nothing
  }
}
