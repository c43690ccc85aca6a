/** Which columns a state means. Pure. */

import { globPattern } from "../curves.js";
import { canonical, isGlob, parts } from "./names.js";

/** Every column that a state speaks of: shown, sorted, grouped or plotted. */
export function spokenOf({ cols, sort, group, axes, shade }) {
  const names = [...cols, ...sort.map((each) => each.replace(/^-/, "")), ...group, ...axes, shade];
  return [...new Set(names.filter(Boolean).map((name) => (isGlob(name) ? name : canonical(name))))];
}

/**
 * The names in this order, globs as what they mean among the known ones.
 * @param {string[]} patterns
 * @param {Iterable<string>} among
 */
export function expanded(patterns, among) {
  const known = [...among];
  const found = new Set();
  for (const pattern of patterns) {
    if (!isGlob(pattern)) {
      found.add(canonical(pattern));
      continue;
    }
    const { group, key, stat } = parts(pattern);
    const glob = globPattern(key);
    for (const name of known) {
      const each = parts(name);
      if (each.group === group && each.stat === stat && glob.test(each.key)) found.add(name);
    }
  }
  return [...found];
}
