import assert from "node:assert/strict";
import { test } from "node:test";

import { ago, duration, place, tick, value } from "../../../../../query/page/static/js/format.js";

test("values", () => {
  const cases = [
    [null, "–"],
    [0, "0"],
    [NaN, "NaN"],
    [Infinity, "+∞"],
    [-Infinity, "−∞"],
    [0.5, "0.5"],
    [-1.25, "−1.25"],
    [1234567, "1.2346e6"],
    [0.00012, "1.2e−4"],
    [-0.00012, "−1.2e−4"],
  ];
  for (const [number, text] of cases) assert.equal(value(number), text);
});

test("ticks, durations, places, ages", () => {
  assert.equal(tick(0), "0");
  assert.equal(tick(12_000), "12K");
  assert.equal(duration(0.5), "0.5s");
  assert.equal(duration(750), "12m 30s");
  assert.equal(duration(-60), "−60s");
  assert.equal(duration(2 * 86_400 + 4 * 3_600), "2d 4h");
  assert.equal(place(1234, "step"), "step 1,234");
  assert.equal(ago(0, 30_000), "just now");
  assert.equal(ago(0, 5 * 60_000), "5 min ago");
});
