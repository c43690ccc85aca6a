/** The page's state in one place: who changes it, and who is told. Nothing here knows elements or addresses. */

/**
 * @template {Record<string, any>} State
 */
export class Store {
  /** @param {State} state */
  constructor(state) {
    this.state = state;
    this._listeners = [];
  }

  /**
   * Tell `listener(state, before, changed)` whenever one of these parts has changed; listeners begin in the order in
   * which they came, and do not wait for one another.
   * @param {string[]} names
   * @param {(state: State, before: State, changed: Set<string>) => unknown} listener
   */
  on(names, listener) {
    this._listeners.push({ names, listener });
  }

  /** What of this patch would change something. */
  differences(patch) {
    return Object.keys(patch).filter((name) => String(patch[name]) !== String(this.state[name]));
  }

  /**
   * Change the state without telling anybody: for what is only being found out.
   * @param {Partial<State>} patch
   */
  put(patch) {
    this.state = { ...this.state, ...patch };
  }

  /**
   * Change the state and tell whoever listens to what has changed; resolves when they are through.
   * @param {Partial<State>} patch
   */
  async change(patch) {
    const changed = new Set(this.differences(patch));
    if (!changed.size) return;
    const before = this.state;
    this.put(patch);
    const concerned = this._listeners.filter(({ names }) => names.some((name) => changed.has(String(name))));
    await Promise.all(concerned.map(({ listener }) => listener(this.state, before, changed)));
  }
}
