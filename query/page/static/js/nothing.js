/** What stands where the curves would be, while there are none. */

import { byId, el } from "./dom.js";
import * as server from "./server.js";

/** Say why there are no curves, and what to do; or nothing, once there are. */
export function showNothing({ matched, experiments, listed, chosen, keys, state }) {
  const about = byId("nothing");
  about.hidden = matched.length > 0;
  if (about.hidden) return about.replaceChildren();
  const say = (title, ...more) => about.replaceChildren(el("h2", {}, title), ...more);
  if (!state.experiments.length && experiments.length) return say("Choose an experiment");
  if (!listed.length && state.filter) return say("No run matches this search");
  if (!chosen.length && listed.length) return say("Choose runs");
  if (keys.length)
    return say(
      "No metric matches",
      el("p", {}, "Metrics are names or globs, with commas between: train/*, loss"),
    );
  const title = chosen.length ? "No metrics yet" : "No runs yet";
  const code = [
    "import mlflow",
    `mlflow.set_tracking_uri("${location.origin}${server.PREFIX}")`,
    "with mlflow.start_run():",
    "    for step in range(1000):",
    '        mlflow.log_metric("loss", 1 / (step + 1), step=step)',
  ].join("\n");
  return say(
    title,
    el("p", {}, "They appear here as they are logged:"),
    el("pre", {}, el("code", {}, code)),
  );
}
