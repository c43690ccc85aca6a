import assert from "node:assert/strict";
import { test } from "node:test";

import { Points } from "../../../../../query/page/static/js/series.js";

const row = (run_id, step, value, timestamp = step) => ({ run_id, step, timestamp, value });

test("live points wait until the question is answered, come in their order, and once", () => {
  const points = new Points(100);
  assert.equal(points.add("a", 2, 2, 20), false);
  points.fill([row("a", 1, 10), row("a", 2, 20), row("b", 1, "NaN")]);
  assert.equal(points.count, 3);
  assert.equal(points.add("a", 0, 0, 5), true);
  assert.deepEqual(points.runs.get("a").steps, [0, 1, 2]);
  assert.ok(Number.isNaN(points.runs.get("b").values[0]));
  assert.equal(points.add("c", 1, 1, 1), true);
});

test("what is held is bounded", () => {
  const points = new Points(50);
  points.fill([]);
  for (let step = 0; step < 10_000; step++) points.add("a", step, step, step % 7);
  assert.ok(points.count <= 101);
  const { steps } = points.runs.get("a");
  assert.equal(steps[0], 0);
  assert.equal(steps.at(-1), 9_999);
});

test("points outside are not taken, and too many that wait ask for a new question", () => {
  const points = new Points(10, (step) => step < 5);
  points.fill([]);
  assert.equal(points.add("a", 7, 7, 1), false);
  const waiting = new Points(10);
  for (let step = 0; step < 20_001; step++) waiting.add("a", step, step, 1);
  assert.ok(waiting.incomplete);
});
