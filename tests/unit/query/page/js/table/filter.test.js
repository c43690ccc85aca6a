import assert from "node:assert/strict";
import { test } from "node:test";

import { comparisons, filtered } from "../../../../../../query/page/static/js/table/filter.js";
import { frameOf } from "./frames.js";

const frame = frameOf({
  run_id: ["a", "b", "c", "d"],
  "attributes.run_name": ["Fox-1", "fox-2", "owl.1", null],
  "attributes.start_time": [10, 20, 30, 40],
  "params.lr": ["0.1", "0.01", null, "0.1"],
  "params.learning rate": ["1", "2", "3", "4"],
  "metrics.loss": [1, 2, null, -0.5],
  "metrics.val/loss.min": [1, 2, 3, 4],
  "metrics.loss.at(10)": [4, 3, 2, 1],
  "metrics.bad": ["NaN", 1, 2, 3],
  "tags.team": ["x", "y", null, "x"],
});
const rows = (text) => filtered(frame, text) && [...filtered(frame, text)];

test("rows are those that MLflow finds", () => {
  const cases = {
    "": [0, 1, 2, 3],
    "metrics.loss < 1.5": [0, 3],
    "metrics.loss >= -0.5 AND params.lr = '0.1'": [0, 3],
    'params.lr != "0.1"': [1],
    "params.`learning rate` IN ('1', '4')": [0, 3],
    "param.lr NOT IN ('0.1')": [1],
    "metrics.`val/loss`.min > 2 and metrics.val/loss.min<=3": [2],
    "metrics.loss.at(10) = 3": [1],
    "run_name LIKE 'fox%'": [1],
    "attributes.run_name ILIKE 'FOX-_'": [0, 1],
    "attr.run_name like 'owl.1'": [2],
    "run_id = 'd'": [3],
    "start_time > 15 and tags.team = 'x'": [3],
  };
  for (const [text, expected] of Object.entries(cases)) assert.deepEqual(rows(text), expected, text);
});

test("what is not read here, or not loaded, is the server's", () => {
  const texts = [
    "metrics.loss < 1 OR metrics.loss > 2",
    "metrics.loss < 'a'",
    "params.lr < '1'",
    "params.lr = 1",
    "metrics.loss LIKE '1'",
    "params.other = '1'",
    "metrics.bad < 1",
    "metrics.loss <",
    "params.lr IN '1'",
    "attributes.artifact_uri = 'x'",
    "dataset.name = 'x'",
    "metrics.loss < 1 metrics.loss > 0",
    "(metrics.loss < 1)",
  ];
  for (const text of texts) assert.equal(rows(text), null, text);
  assert.equal(comparisons("params.lr = 'it''s'"), null);
});
