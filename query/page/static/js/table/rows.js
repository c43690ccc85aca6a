/** The lines of a table: runs, or groups with their runs below those that are open. Pure. */

import { groups, sorted, sortedGroups, sortOf, spread } from "./order.js";

export class Rows {
  /**
   * @param {import("./frame.js").Frame} frame
   * @param {Int32Array} runs rows of the frame
   * @param {{sort: string[], group: string[]}} state
   * @param {Set<string>} open keys of the groups whose runs are shown
   */
  constructor(frame, runs, { sort, group }, open) {
    this.frame = frame;
    const sorts = sort.map(sortOf);
    /** The runs in their order, whichever are shown. */
    this.runs = sorted(frame, runs, sorts);
    this.names = group;
    this.groups = group.length ? sortedGroups(frame, groups(frame, this.runs, group), group, sorts) : [];
    this._open = open;
    this._extents = new Map();
    this._spreads = new Map();
    this.layOut();
  }

  /** Number the lines anew, after a group was opened or closed. */
  layOut() {
    if (!this.names.length) {
      this._lines = this.runs;
      return;
    }
    const lines = [];
    this.groups.forEach((group, at) => {
      lines.push(-1 - at);
      if (this._open.has(this.keyOf(group))) for (const row of group.rows) lines.push(row);
    });
    this._lines = Int32Array.from(lines);
  }

  get count() {
    return this._lines.length;
  }

  /** What stands on a line: `{row}` of a run, or `{group}`. */
  at(line) {
    const found = this._lines[line];
    return found < 0 ? { group: this.groups[-1 - found] } : { row: found };
  }

  keyOf(group) {
    return JSON.stringify(group.values);
  }

  isOpen(group) {
    return this._open.has(this.keyOf(group));
  }

  toggle(group) {
    const key = this.keyOf(group);
    if (!this._open.delete(key)) this._open.add(key);
    this.layOut();
  }

  /** The smallest and the largest finite value of a column in these runs; `null` if there are not two. */
  extent(name) {
    if (!this._extents.has(name)) {
      const numbers = this.frame.columns.get(name)?.numbers;
      const found = numbers ? spread(numbers, this.runs) : null;
      this._extents.set(name, found && found.min < found.max ? [found.min, found.max] : null);
    }
    return this._extents.get(name);
  }

  /** Mean and spread of a column in a group; `null` where it has no number. */
  spread(group, name) {
    let found = this._spreads.get(group);
    if (!found) this._spreads.set(group, (found = new Map()));
    if (!found.has(name)) {
      const numbers = this.frame.columns.get(name)?.numbers;
      found.set(name, numbers ? spread(numbers, group.rows) : null);
    }
    return found.get(name);
  }
}
