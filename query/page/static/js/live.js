/** Live points: one stream of Server-Sent Events for all runs that are looked at, however often it breaks. */

import { liveAddress } from "./server.js";

const LONGEST_WAIT_MS = 8_000;
const OPENS_WITHIN_MS = 1_500;

export class Live {
  /**
   * `onPoints(columns)` for new points, `onGap()` when some may have been missed, `onState(open)` when the
   * stream breaks and is back.
   */
  constructor({ onPoints, onGap, onState }) {
    this._on = { onPoints, onGap, onState };
    this._source = null;
    this._timer = 0;
    this._lastId = "";
    this._wait = 500;
    this._asked = "";
  }

  /**
   * Follow these runs and keys (names or globs; none: every key) from now on. Resolves when the stream is open, so
   * that whoever asks for points after that misses none; or after a short while, and then a gap follows.
   */
  follow(runIds, keys) {
    const asked = JSON.stringify([runIds, keys]);
    if (asked === this._asked) return this._opened;
    this._asked = asked;
    this._lastId = "";
    this._stop();
    if (!runIds.length) return (this._opened = Promise.resolve());
    this._opened = new Promise((resolve) => {
      let late = false;
      const timer = setTimeout(() => ((late = true), resolve()), OPENS_WITHIN_MS);
      this._connect(runIds, keys, () => {
        clearTimeout(timer);
        resolve();
        if (late) this._on.onGap();
      });
    });
    return this._opened;
  }

  _stop() {
    clearTimeout(this._timer);
    this._source?.close();
    this._source = null;
  }

  _connect(runIds, keys, first) {
    const source = new EventSource(liveAddress(runIds, keys, this._lastId));
    this._source = source;
    const again = () => {
      this._stop();
      this._timer = setTimeout(() => this._connect(runIds, keys, first), this._wait);
      this._wait = Math.min(2 * this._wait, LONGEST_WAIT_MS);
    };
    const here = (event) => {
      this._lastId = event.lastEventId;
      this._wait = 500;
      this._on.onState(true);
      first?.();
      first = null;
    };
    source.addEventListener("open", (event) => event instanceof MessageEvent && here(event));
    source.addEventListener("gap", (event) => (here(event), this._on.onGap()));
    source.addEventListener("points", (event) => {
      this._lastId = event.lastEventId;
      this._on.onPoints(JSON.parse(event.data));
    });
    source.addEventListener("dropped", () => {
      this._lastId = "";
      this._on.onGap();
      again();
    });
    source.addEventListener("error", () => {
      this._on.onState(false);
      // A broken connection is mended by the browser; an answer that is no stream is final for it, not for us.
      if (source.readyState === EventSource.CLOSED) again();
    });
  }
}
