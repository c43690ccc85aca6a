import assert from "node:assert/strict";
import { test } from "node:test";

import { EMPTY, fromQuery, toQuery } from "../../../../../query/page/static/js/state.js";

test("nothing chosen is an empty address", () => {
  assert.equal(toQuery(EMPTY), "");
  assert.deepEqual(fromQuery(""), EMPTY);
});

test("an address brings back what it was made of", () => {
  const states = [
    { experiments: ["1", "2"], runs: ["a", "b"], keys: ["train/*", "loss"], smooth: 0.5 },
    { x: "time", log: true, bands: "p10p90", from: 1, to: 2.5 },
    { filter: "params.lr = '0.1' and metrics.loss < 1", keys: [] },
  ];
  for (const part of states) {
    const state = { ...EMPTY, ...part };
    assert.deepEqual(fromQuery(`?${toQuery(state)}`), state);
  }
});

test("what makes no sense is as if it were not there", () => {
  assert.deepEqual(fromQuery("?x=sideways&bands=wide&smooth=NaN&from=5&to=1&y=cubic"), EMPTY);
  assert.equal(fromQuery("?smooth=7").smooth, 0.99);
  assert.deepEqual(fromQuery("?runs=a,a,,b").runs, ["a", "b"]);
});
