/** Questions to the server, MLflow's and Runstream's. They wait for a server that is away, and say so. */

export const PREFIX = /** @type {HTMLMetaElement} */ (
  document.querySelector('meta[name="static-prefix"]')
).content;
const MLFLOW = `${PREFIX}/ajax-api/2.0/mlflow`;
const OWN = `${PREFIX}/api/1.0/runstream`;
const AWAY = new Set([429, 502, 503, 504]);
const LONGEST_WAIT_MS = 8_000;

/** An answer that says no; its text is for people. */
export class Refused extends Error {}

/** Told `true` when the server is away and `false` when it is back. */
export const away = {
  /** @type {(away: boolean) => void} */
  listener: () => {},
  count: 0,
};

function tellAway(change) {
  const before = away.count;
  away.count += change;
  if ((before === 0) !== (away.count === 0)) away.listener(away.count > 0);
}

/**
 * @param {string} path
 * @param {{body?: object, signal?: AbortSignal}} options
 */
async function ask(path, { body, signal } = {}) {
  const options = { signal, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    options.headers["Content-Type"] = "application/json";
  }
  let missing = false;
  try {
    for (let wait = 500; ; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
      const answer = await once(path, options);
      if (answer !== null) return answer;
      if (!missing) tellAway(+1);
      missing = true;
      await pause(wait, signal);
    }
  } finally {
    if (missing) tellAway(-1);
  }
}

/** One try; `null` if the server is away. */
async function once(path, options) {
  try {
    const response = await fetch(path, options);
    if (AWAY.has(response.status)) return null;
    if (response.ok) return await response.json();
    const error = await response.json().catch(() => ({}));
    throw new Refused(error.message || `${path}: the server answered ${response.status}`);
  } catch (error) {
    if (error instanceof TypeError || error instanceof SyntaxError) return null;
    throw error;
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), resolve()), ms);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Every experiment, the last changed first: `[{id, name}]`. */
export async function experiments() {
  const found = [];
  let token;
  do {
    const body = { max_results: 1000, order_by: ["last_update_time DESC"], page_token: token };
    const answer = await ask(`${MLFLOW}/experiments/search`, { body });
    for (const { experiment_id, name } of answer.experiments ?? []) found.push({ id: experiment_id, name });
    token = answer.next_page_token;
  } while (token && found.length < 10_000);
  return found;
}

/**
 * Runs of experiments, the newest first, and the token of the next page. `filter` is MLflow's search syntax.
 * @param {string[]} experimentIds
 * @param {string} filter
 * @param {{signal?: AbortSignal, token?: string, limit?: number}} options
 */
export async function searchRuns(experimentIds, filter, { signal, token, limit = 100 } = {}) {
  if (BEYOND_MLFLOW.test(filter)) return searchBeyond(experimentIds, filter, { signal, token, limit });
  const body = {
    experiment_ids: experimentIds,
    filter,
    max_results: limit,
    order_by: ["attributes.start_time DESC"],
    page_token: token,
  };
  const answer = await ask(`${MLFLOW}/runs/search`, { body, signal });
  return { runs: (answer.runs ?? []).map(shortened), next: answer.next_page_token };
}

const BEYOND_MLFLOW = /\bmetrics?\.\S+\.(min|max|mean|first|last|count|at\(-?\d+\))\s*[<>=!]/i;

/** The same for a filter about series, which MLflow's own search does not know. */
async function searchBeyond(experimentIds, filter, { signal, token, limit }) {
  const order = ["attributes.start_time DESC"];
  const body = { experiment_ids: experimentIds, filter, order_by: order, max_results: limit, page_token: token };
  const { columns, next_page_token: next } = await runTable({ ...body, columns: [] }, signal);
  const ids = columns[0].values;
  if (!ids.length) return { runs: [], next };
  const named = `attributes.run_id IN (${ids.map((id) => `'${id}'`).join(", ")})`;
  const found = await searchRuns(experimentIds, named, { signal, limit });
  return { runs: found.runs, next };
}

/** One run. */
export async function getRun(runId) {
  return shortened((await ask(`${MLFLOW}/runs/get?run_id=${encodeURIComponent(runId)}`)).run);
}

function shortened({ info, data }) {
  return {
    id: info.run_id,
    name: info.run_name || info.run_id.slice(0, 8),
    experiment: info.experiment_id,
    status: info.status,
    start: Number(info.start_time ?? 0),
    keys: (data?.metrics ?? []).map((metric) => metric.key),
  };
}

/** What people type, as MLflow's search syntax: a comparison as it is, any other text as a part of a run's name. */
export function asFilter(text) {
  const trimmed = text.trim();
  if (!trimmed) return "";
  if (/[=<>]|\b(I?LIKE|IN)\s*['"(]|\bIS\s+(NOT\s+)?NULL\b/i.test(trimmed)) return trimmed;
  const quote = trimmed.includes("'") ? '"' : "'";
  return `attributes.run_name ILIKE ${quote}%${trimmed.replaceAll(quote, "%")}%${quote}`;
}

/**
 * One page of runs as columns: `{columns: [{name, type, values}], next_page_token}`.
 * @param {object} body
 * @param {AbortSignal} [signal]
 */
export const runTable = (body, signal) => ask(`${OWN}/runs`, { body, signal });

/** Points of Runstream's own API: rows of `{run_id, key, step, timestamp, value}`. */
export const points = (body, signal) => ask(`${OWN}/metrics/query`, { body, signal });

/** Statistics across runs: rows of `{key, step, …}`. */
export const aggregate = (body, signal) => ask(`${OWN}/metrics/aggregate`, { body, signal });

/** The address of the live points of these runs. */
export function liveAddress(runIds, keys, lastEventId) {
  const fields = new URLSearchParams();
  for (const id of runIds) fields.append("run_id", id);
  for (const key of keys) fields.append("key", key);
  if (lastEventId) fields.set("last_event_id", lastEventId);
  return `${OWN}/live?${fields}`;
}

/** MLflow's own pages. */
export const mlflowHome = () => `${PREFIX}/`;
/** @param {{id: string, experiment: string}} run */
export const mlflowRun = (run) =>
  `${PREFIX}/#/experiments/${encodeURIComponent(run.experiment)}/runs/${encodeURIComponent(run.id)}`;
