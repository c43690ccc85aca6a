import assert from "node:assert/strict";
import { test } from "node:test";

import { csv, groupedCsv, pandas } from "../../../../../../query/page/static/js/table/copies.js";
import { expanded, spokenOf } from "../../../../../../query/page/static/js/table/patterns.js";
import { Rows } from "../../../../../../query/page/static/js/table/rows.js";
import { scaleOf } from "../../../../../../query/page/static/js/table/scales.js";
import { frameOf } from "./frames.js";

const frame = frameOf({
  run_id: ["a", "b", "c"],
  "params.note": ['say "hi", then', null, "two\nlines"],
  "metrics.loss": [0.1 + 0.2, "NaN", "-Infinity"],
});

test("CSV holds exact values, quoted where it must be", () => {
  assert.equal(
    csv(frame, [0, 2, 1], ["params.note", "metrics.loss"]),
    'params.note,metrics.loss\r\n"say ""hi"", then",0.30000000000000004\r\n"two\nlines",-inf\r\n,NaN\r\n',
  );
});

test("CSV of groups holds mean and spread", () => {
  const some = frameOf({ run_id: ["a", "b", "c"], "params.lr": ["1", "1", "2"], "metrics.loss": [1, 3, 5] });
  const rows = new Rows(some, Int32Array.of(0, 1, 2), { sort: [], group: ["params.lr"] }, new Set());
  assert.equal(
    groupedCsv(rows, ["params.lr", "metrics.loss"]),
    `params.lr,runs,metrics.loss mean,metrics.loss std\r\n1,2,2,${Math.SQRT2}\r\n2,1,5,\r\n`,
  );
});

test("Python asks for the same", () => {
  const code = pandas({
    server: "http://127.0.0.1:5000",
    experiments: ["1"],
    filter: "params.lr = '0.1'",
    columns: ["params.*", "metrics.`val/loss`.min"],
    sort: ["-metrics.val/loss.min"],
    group: ["params.lr"],
    runs: ["a"],
  });
  for (const part of [
    'runstream.connect("http://127.0.0.1:5000").runs(',
    `    ["1"],\n    filter="params.lr = '0.1'",\n    columns=["params.*", "metrics.\`val/loss\`.min"],\n`,
    '    order_by=["metrics.`val/loss`.min DESC"],\n',
    'df = df[df["run_id"].isin(["a"])]',
    'df.groupby(["params.lr"], dropna=False)[metrics].agg(["mean", "std", "count"])',
  ])
    assert.ok(code.includes(part), `${part} in\n${code}`);
});

test("globs mean what is known, of one statistic", () => {
  const known = ["params.lr", "metrics.loss", "metrics.loss.min", "metrics.`val/loss`", "metrics.`val/loss`.min"];
  assert.deepEqual(expanded(["metrics.*.min", "params.none", "metrics.val/*"], known), [
    "metrics.loss.min",
    "metrics.`val/loss`.min",
    "params.none",
    "metrics.`val/loss`",
  ]);
  const state = { cols: ["params.*", "metrics.val/x"], sort: ["-metrics.a"], group: ["params.lr"], axes: [], shade: "" };
  assert.deepEqual(spokenOf(state), ["params.*", "metrics.`val/x`", "metrics.a", "params.lr"]);
});

test("a scale is linear, logarithmic, or of texts", () => {
  const some = frameOf({
    run_id: ["a", "b", "c"],
    "params.lr": ["0.001", "0.1", "10"],
    "params.name": ["sgd", "adam", null],
    "metrics.loss": [1, 2, "NaN"],
    "metrics.none": [null, null, "NaN"],
  });
  const scale = (name) => scaleOf(some.columns.get(name), [0, 1, 2]);
  const places = (name) => [0, 1, 2].map((row) => Number(scale(name).place(row).toFixed(3)));
  assert.ok(scale("params.lr").log);
  assert.deepEqual(places("params.lr"), [0, 0.5, 1]);
  assert.deepEqual(places("metrics.loss"), [0, 1, NaN]);
  assert.deepEqual(places("params.name"), [1, 0, NaN]);
  assert.equal(scale("metrics.none"), null);
  assert.equal(scale("metrics.other"), null);
});
