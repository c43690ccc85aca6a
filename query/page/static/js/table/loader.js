/** Runs of experiments as columns, asked for page by page; what is already here is not asked for again. */

import { asFilter, runTable } from "../server.js";
import { orderBy } from "./copies.js";
import { filtered } from "./filter.js";
import { Frame } from "./frame.js";
import { canonical } from "./names.js";
import { spokenOf } from "./patterns.js";

const FIRST_PAGE = 200;
const PAGE = 2_500;
/** So many runs are loaded without being asked for. */
export const MOST_RUNS = 20_000;
/** What every row shows. */
const ALWAYS = ["run_name", "status", "start_time", "experiment_id"].map((key) => `attributes.${key}`);

export class Loader {
  /** `onPage(frame, isNew)` is told of each page, and whether it is the first of another frame. */
  constructor(onPage) {
    this._onPage = onPage;
    this.frame = new Frame();
    /** @type {{experiments: string, filter: string, columns: string[], sort: string} | null} */
    this.loaded = null;
    this.next = undefined;
    this.whole = false;
  }

  /** Whether a state can be shown with what is here. */
  covers(state) {
    const { loaded } = this;
    if (!loaded || loaded.experiments !== state.experiments.join()) return false;
    if (!spokenOf(state).every((name) => loaded.columns.includes(name))) return false;
    const filter = asFilter(state.filter);
    if (!this.whole) return loaded.filter === filter && loaded.sort === state.sort.join();
    return loaded.filter === filter || (!loaded.filter && filtered(this.frame, filter) !== null);
  }

  /** The rows of a state's filter; all of them where the server has filtered. */
  rows(state) {
    const filter = asFilter(state.filter);
    const all = () => Int32Array.from({ length: this.frame.length }, (_, row) => row);
    return this.loaded?.filter === filter ? all() : (filtered(this.frame, filter) ?? all());
  }

  /**
   * Ask for what a state shows. With `quietly`, what is here stays until all of it has arrived.
   * @param {import("../state.js").State} state
   */
  async load(state, { quietly = false } = {}) {
    this._asking?.abort();
    const controller = (this._asking = new AbortController());
    const frame = new Frame();
    const columns = spokenOf(state);
    this._body = {
      experiment_ids: state.experiments,
      filter: asFilter(state.filter),
      order_by: state.sort.length ? orderBy(state.sort) : ["attributes.start_time DESC"],
      columns: [...new Set([...ALWAYS, ...columns])],
    };
    const loaded = {
      ...{ experiments: state.experiments.join(), filter: this._body.filter },
      ...{ columns: [...ALWAYS, ...columns], sort: state.sort.join() },
    };
    const take = (next) => {
      const isNew = this.frame !== frame;
      Object.assign(this, { frame, loaded, next, whole: next === undefined });
      this._onPage(frame, isNew);
    };
    if (!state.experiments.length) return take(undefined);
    let next;
    do {
      const answer = await this._page(frame.length ? PAGE : FIRST_PAGE, next, controller.signal);
      frame.append(answer.columns);
      next = answer.next_page_token;
      if (!quietly || next === undefined || frame.length >= MOST_RUNS) take(next);
    } while (next !== undefined && frame.length < MOST_RUNS);
  }

  /** The next runs, where there are more than are loaded unasked. */
  async more() {
    this._asking?.abort();
    const controller = (this._asking = new AbortController());
    const { frame } = this;
    const end = frame.length + MOST_RUNS;
    while (this.next !== undefined && frame.length < end) {
      const answer = await this._page(PAGE, this.next, controller.signal);
      frame.append(answer.columns);
      this.next = answer.next_page_token;
      this.whole = this.next === undefined;
      this._onPage(frame, false);
    }
  }

  _page(size, token, signal) {
    return runTable({ ...this._body, max_results: size, page_token: token }, signal);
  }
}

/** Names of what the newest runs of these experiments have: params, metrics, tags. */
export async function namesOf(experiments, signal) {
  if (!experiments.length) return [];
  const body = {
    ...{ experiment_ids: experiments, order_by: ["attributes.start_time DESC"] },
    ...{ columns: ["params.*", "metrics.*", "tags.*"], max_results: FIRST_PAGE },
  };
  const answer = await runTable(body, signal);
  return answer.columns.map(({ name }) => canonical(name)).filter((name) => name !== "attributes.run_id");
}
