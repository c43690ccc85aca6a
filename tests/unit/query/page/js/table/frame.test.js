import assert from "node:assert/strict";
import { test } from "node:test";

import { Frame } from "../../../../../../query/page/static/js/table/frame.js";
import { canonical, parts, spelled } from "../../../../../../query/page/static/js/table/names.js";
import { groups, sorted, sortedGroups, sortOf, spread } from "../../../../../../query/page/static/js/table/order.js";
import { Rows } from "../../../../../../query/page/static/js/table/rows.js";
import { frameOf } from "./frames.js";

const all = (frame) => Int32Array.from({ length: frame.length }, (_, row) => row);
const order = (frame, ...sorts) => [...sorted(frame, all(frame), sorts.map(sortOf))];

test("a name has one spelling, and its parts come back", () => {
  const cases = {
    "metrics.loss": { group: "metrics", key: "loss", stat: "" },
    "metrics.loss.min": { group: "metrics", key: "loss", stat: "min" },
    "metrics.loss.last": { group: "metrics", key: "loss", stat: "" },
    "metrics.val/loss.at(-5)": { group: "metrics", key: "val/loss", stat: "at(-5)" },
    "metrics.`loss.min`": { group: "metrics", key: "loss.min", stat: "" },
    "metrics.`loss.min`.max": { group: "metrics", key: "loss.min", stat: "max" },
    "params.model.max": { group: "params", key: "model.max", stat: "" },
    "tags.mlflow.user": { group: "tags", key: "mlflow.user", stat: "" },
  };
  for (const [name, expected] of Object.entries(cases)) {
    assert.deepEqual(parts(name), expected);
    assert.deepEqual(parts(spelled(expected)), expected);
  }
  assert.equal(canonical("metrics.val/loss"), "metrics.`val/loss`");
  assert.equal(canonical("params.learning rate"), "params.`learning rate`");
  assert.equal(canonical("run_id"), "attributes.run_id");
});

test("pages with other columns make one frame", () => {
  const frame = new Frame();
  frame.append([
    { name: "run_id", type: "string", values: ["a", "b"] },
    { name: "params.lr", type: "string", values: ["0.1", null] },
  ]);
  frame.append([
    { name: "run_id", type: "string", values: ["c"] },
    { name: "metrics.val/loss", type: "double", values: ["NaN"] },
    { name: "metrics.`val/loss`", type: "double", values: [1] },
  ]);
  assert.equal(frame.length, 3);
  assert.deepEqual(frame.columns.get("params.lr").values, ["0.1", null, null]);
  assert.deepEqual(frame.columns.get("metrics.`val/loss`").values, [null, null, NaN]);
  assert.equal(frame.rowOf("c"), 2);
  assert.equal(frame.value("params.none", 0), null);
});

test("texts are numbers where all of them are", () => {
  const frame = frameOf({ run_id: ["a", "b", "c"], "params.lr": ["1e-3", null, " 10 "], "params.name": ["1", "b", "3"] });
  assert.deepEqual([...frame.columns.get("params.lr").numbers], [0.001, NaN, 10]);
  assert.equal(frame.columns.get("params.name").numbers, null);
});

test("rows are sorted by numbers and texts, what is missing last in either direction", () => {
  const frame = frameOf({
    run_id: ["a", "b", "c", "d", "e"],
    "params.lr": ["10", "9", null, "1e-3", "9"],
    "params.name": ["b", "a10", null, "a9", "b"],
    "metrics.loss": [2, "NaN", 1, null, "-Infinity"],
  });
  assert.deepEqual(order(frame, "params.lr"), [3, 1, 4, 0, 2]);
  assert.deepEqual(order(frame, "-params.lr"), [0, 1, 4, 3, 2]);
  assert.deepEqual(order(frame, "params.name"), [3, 1, 0, 4, 2]);
  assert.deepEqual(order(frame, "-metrics.loss"), [0, 2, 4, 1, 3]);
  assert.deepEqual(order(frame, "params.lr", "metrics.loss"), [3, 4, 1, 0, 2]);
  assert.deepEqual(order(frame, "params.none"), [0, 1, 2, 3, 4]);
});

test("groups have mean and spread, and are sorted by them", () => {
  const frame = frameOf({
    run_id: ["a", "b", "c", "d", "e"],
    "params.lr": ["0.1", "0.2", "0.1", "0.2", null],
    "metrics.loss": [3, 1, 5, "NaN", 2],
  });
  const found = groups(frame, all(frame), ["params.lr"]);
  assert.deepEqual(
    found.map(({ values, rows }) => [values, rows]),
    [[["0.1"], [0, 2]], [["0.2"], [1, 3]], [[null], [4]]],
  );
  const numbers = frame.columns.get("metrics.loss").numbers;
  assert.deepEqual(spread(numbers, [0, 2]), { count: 2, mean: 4, std: Math.SQRT2, min: 3, max: 5 });
  assert.equal(spread(numbers, [1, 3]).count, 1);
  assert.equal(spread(numbers, [3]), null);
  const by = (sort) => sortedGroups(frame, found, ["params.lr"], [sortOf(sort)]).map(({ values }) => values[0]);
  assert.deepEqual(by("-metrics.loss"), ["0.1", null, "0.2"]);
  assert.deepEqual(by("params.lr"), ["0.1", "0.2", null]);
});

test("open groups show their runs below them", () => {
  const frame = frameOf({ run_id: ["a", "b", "c"], "params.lr": ["1", "2", "1"], "metrics.loss": [3, 2, 1] });
  const rows = new Rows(frame, all(frame), { sort: ["metrics.loss"], group: ["params.lr"] }, new Set());
  assert.equal(rows.count, 2);
  rows.toggle(rows.at(0).group);
  assert.deepEqual(
    Array.from({ length: rows.count }, (_, line) => rows.at(line).row ?? rows.at(line).group.values[0]),
    ["1", 2, 0, "2"],
  );
  assert.deepEqual(rows.extent("metrics.loss"), [1, 3]);
  rows.toggle(rows.at(0).group);
  assert.equal(rows.count, 2);
});
