/** The order and the groups of rows. Pure functions over a frame. */

/** A sort as it stands in the address: `-name` is descending. */
export const sortOf = (text) =>
  text.startsWith("-") ? { name: text.slice(1), down: true } : { name: text, down: false };

/**
 * Rows in the order of these columns (`[{name, down}]`), missing values and NaN last in either direction; equal ones stay as
 * they were.
 * @param {import("./frame.js").Frame} frame
 * @param {Int32Array} rows
 * @param {{name: string, down: boolean}[]} sorts
 */
export function sorted(frame, rows, sorts) {
  const ranks = sorts.flatMap(({ name, down }) => {
    const column = frame.columns.get(name);
    return column ? [{ rank: column.ranks, sign: down ? -1 : 1 }] : [];
  });
  if (!ranks.length) return rows;
  return Int32Array.from(rows).sort((a, b) => {
    for (const { rank, sign } of ranks) {
      const [x, y] = [rank[a], rank[b]];
      if (x === y) continue;
      if (x !== x) {
        if (y !== y) continue;
        return 1;
      }
      if (y !== y) return -1;
      return x < y ? -sign : sign;
    }
    return 0;
  });
}

/** The rows of each combination of these columns' values: `[{values, rows}]`, in the order of their first rows. */
export function groups(frame, rows, names) {
  const columns = names.map((name) => frame.columns.get(name));
  const found = new Map();
  for (const row of rows) {
    const values = columns.map((column) => column?.values[row] ?? null);
    const key = values.length === 1 ? values[0] : JSON.stringify(values);
    let group = found.get(key);
    if (!group) found.set(key, (group = { values, rows: [] }));
    group.rows.push(row);
  }
  return [...found.values()];
}

/**
 * Mean and spread of these rows' finite values: `{count, mean, std, min, max}`; the standard deviation is the sample's,
 * NaN for one value. `null` where there is no finite value.
 */
export function spread(numbers, rows) {
  let [count, mean, squares] = [0, 0, 0];
  let [min, max] = [Infinity, -Infinity];
  for (const row of rows) {
    const value = numbers[row];
    if (!Number.isFinite(value)) continue;
    count++;
    const off = value - mean;
    mean += off / count;
    squares += off * (value - mean);
    if (value < min) min = value;
    if (value > max) max = value;
  }
  if (!count) return null;
  return { count, mean, std: count > 1 ? Math.sqrt(squares / (count - 1)) : NaN, min, max };
}

/** Groups in the order of their columns' means, or of their own values; groups without a value last. */
export function sortedGroups(frame, found, names, sorts) {
  const sort = sorts[0];
  if (!sort) return found;
  const own = names.indexOf(sort.name);
  const column = frame.columns.get(sort.name);
  if (!column) return found;
  const { ranks } = column;
  const keyed = found.map((group) => ({
    group,
    key: own >= 0 ? ranks[group.rows[0]] : (spread(ranks, group.rows)?.mean ?? NaN),
  }));
  const sign = sort.down ? -1 : 1;
  keyed.sort(({ key: a }, { key: b }) =>
    a !== a || b !== b ? Number(a !== a) - Number(b !== b) : sign * Math.sign(a - b),
  );
  return keyed.map(({ group }) => group);
}
