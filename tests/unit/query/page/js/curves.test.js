import assert from "node:assert/strict";
import { test } from "node:test";

import {
  dots,
  drawable,
  extent,
  extentWithin,
  globPattern,
  nearest,
  smooth,
  thinned,
} from "../../../../../query/page/static/js/curves.js";

test("smoothing keeps a constant, passes over what is no number, and does nothing at weight 0", () => {
  for (const value of smooth([3, 3, 3], 0.9)) assert.ok(Math.abs(value - 3) < 1e-12);
  assert.deepEqual(smooth([1, NaN, 1, null, 1], 0.5), [1, NaN, 1, null, 1]);
  const values = [1, 2, 3];
  assert.equal(smooth(values, 0), values);
  assert.ok(smooth([0, 10], 0.9)[1] < 10);
});

test("thinning keeps ends, extremes and the first of each odd value", () => {
  const values = Array.from({ length: 10_000 }, (_, i) => Math.sin(i / 100));
  values[1234] = 50;
  values[4321] = -50;
  values[7000] = NaN;
  const kept = thinned(values, 100);
  assert.ok(kept.length <= 110);
  for (const place of [0, 1234, 4321, 7000, 9_999]) assert.ok(kept.includes(place), `${place}`);
  assert.deepEqual(kept, [...kept].sort((a, b) => a - b));
  assert.deepEqual(thinned([1, 2], 100), [0, 1]);
});

test("the nearest of ascending positions", () => {
  assert.equal(nearest([], 1), -1);
  assert.equal(nearest([1, 5, 9], 6), 1);
  assert.equal(nearest([1, 5, 9], 8), 2);
  assert.equal(nearest([1, 5, 9], -4), 0);
});

test("what can be drawn: ascending, numbers broken by what has no place", () => {
  const curve = drawable([3, 1, 2], [30, NaN, -5], true);
  assert.deepEqual(curve.x, [1, 2, 3]);
  assert.deepEqual(curve.y, [null, null, 30]);
  assert.deepEqual(curve.marks, [[1, "nan"]]);
  assert.equal(curve.hidden, 1);
  assert.deepEqual(drawable([1, 2], [Infinity, -Infinity], false).marks, [
    [1, "+inf"],
    [2, "-inf"],
  ]);
});

test("dots stand where a line would not show", () => {
  assert.deepEqual(dots([null, 1, null, 2, 3], 0), [1]);
  assert.deepEqual(dots([1, 2], 3), [0, 1]);
});

test("extents", () => {
  assert.deepEqual(extent([[1, 4], [], [0, 2]]), [0, 4]);
  assert.equal(extent([[]]), null);
  assert.deepEqual(extentWithin([[[1, 2, 3], [10, null, 30]]], 2, 3), [30, 30]);
  assert.equal(extentWithin([[[1], [1]]], 2, 3), null);
});

test("globs are the server's", () => {
  const cases = [
    ["train/*", "train/loss", true],
    ["train/*", "val/loss", false],
    ["*", "a/b", true],
    ["l?ss", "loss", true],
    ["l?ss", "looss", false],
    ["[ab]c", "bc", true],
    ["[!ab]c", "bc", false],
    ["[!ab]c", "xc", true],
    ["a[b", "a[b", true],
    ["a.b", "axb", false],
    ["(x)", "(x)", true],
    ["[z-a]", "z", false],
  ];
  for (const [glob, key, matches] of cases)
    assert.equal(globPattern(String(glob)).test(String(key)), matches, `${glob} ${key}`);
});
