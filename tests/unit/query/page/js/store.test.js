import assert from "node:assert/strict";
import { test } from "node:test";

import { Store } from "../../../../../query/page/static/js/store.js";

test("who listens to what has changed is told what was before", async () => {
  const store = new Store({ a: 1, b: [1], c: 0 });
  const told = [];
  store.on(["a"], (state, before, changed) => told.push(["a", state.a, before.a, [...changed]]));
  store.on(["b", "c"], (state) => told.push(["b", ...state.b]));
  await store.change({ a: 2 });
  await store.change({ a: 2, b: [1] });
  await store.change({ a: 3, b: [1, 2] });
  assert.deepEqual(told, [
    ["a", 2, 1, ["a"]],
    ["a", 3, 2, ["a", "b"]],
    ["b", 1, 2],
  ]);
});

test("a change ends when everybody is through, and one does not wait for another", async () => {
  const store = new Store({ a: 0 });
  const done = [];
  store.on(["a"], () => new Promise((resolve) => setTimeout(() => (done.push("slow"), resolve()), 5)));
  store.on(["a"], () => done.push("quick"));
  await store.change({ a: 1 });
  assert.deepEqual(done, ["quick", "slow"]);
  store.put({ a: 2 });
  assert.equal(store.state.a, 2);
  assert.equal(done.length, 2);
});
