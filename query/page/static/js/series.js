/** The points that the page holds of one metric: bounded, whatever was asked for and however many more arrive. */

import { thinned } from "./curves.js";

const LONGEST_WAITING = 20_000;

/** One run's points in the order of (step, timestamp), at most `limit` of them for long. */
class Series {
  constructor(limit) {
    this.limit = limit;
    this.steps = [];
    this.times = [];
    this.values = [];
  }

  /** Add a point where it belongs; `false` if it is there already. */
  add(step, time, value) {
    let at = this.steps.length;
    while (
      at > 0 &&
      (this.steps[at - 1] > step || (this.steps[at - 1] === step && this.times[at - 1] > time))
    )
      at--;
    for (let i = at - 1; i >= 0 && this.steps[i] === step && this.times[i] === time; i--) {
      if (Object.is(this.values[i], value)) return false;
    }
    if (at === this.steps.length) {
      this.steps.push(step);
      this.times.push(time);
      this.values.push(value);
    } else {
      this.steps.splice(at, 0, step);
      this.times.splice(at, 0, time);
      this.values.splice(at, 0, value);
    }
    if (this.steps.length > 2 * this.limit) this._thin();
    return true;
  }

  _thin() {
    const kept = thinned(this.values, this.limit);
    for (const name of ["steps", "times", "values"]) {
      const column = this[name];
      this[name] = kept.map((i) => column[i]);
    }
  }
}

/** A metric's points of several runs. While they are being asked for, live points wait, and come in after them. */
export class Points {
  /**
   * `limit` points a run; `within(step, time, runId)` says which live points belong here.
   * @param {number} limit
   * @param {(step: number, time: number, runId: string) => boolean} within
   */
  constructor(limit, within = () => true) {
    this.limit = limit;
    this.loaded = false;
    this.runs = new Map();
    this._within = within;
    this._waiting = [];
    this.incomplete = false;
  }

  /** What the server answered. */
  fill(rows) {
    this.runs = new Map();
    let name = null;
    let series = null;
    for (const row of rows) {
      if (row.run_id !== name) {
        name = row.run_id;
        series = this.runs.get(name) ?? new Series(this.limit);
        this.runs.set(name, series);
      }
      series.steps.push(row.step);
      series.times.push(row.timestamp);
      series.values.push(Number(row.value));
    }
    this.loaded = true;
    for (const [runId, step, time, value] of this._waiting) this.add(runId, step, time, value);
    this._waiting = [];
  }

  /** A live point; `true` if it changes what is to be drawn. */
  add(runId, step, time, value) {
    if (!this._within(step, time, runId)) return false;
    if (!this.loaded) {
      if (this._waiting.length < LONGEST_WAITING) this._waiting.push([runId, step, time, value]);
      else this.incomplete = true;
      return false;
    }
    let series = this.runs.get(runId);
    if (!series) this.runs.set(runId, (series = new Series(this.limit)));
    return series.add(step, time, value);
  }

  /** How many points are held. */
  get count() {
    let sum = 0;
    for (const series of this.runs.values()) sum += series.steps.length;
    return sum;
  }
}
