/** Names of columns: `params.lr`, `metrics.loss` (the newest value), `metrics.loss.min`, ``metrics.`val/loss`.at(500)``. */

const NAME =
  /^(?<group>\w+)\.(?:[`"](?<quoted>[^`"]+)[`"]|(?<key>.+?))(?:\.(?<stat>min|max|last|mean|first|count|at\(-?\d+\)))?$/s;
const WORD = String.raw`(?!(?:case|in|values|using|from|as)\b)[a-z]\w*`;
const PLAIN = new RegExp(`^${WORD}(?:\\.${WORD})*$`, "i");
const LIKE_A_STATISTIC = /.*\.(?:min|max|mean|first|count|last)$/s;

/** What a metric may be shown as, beside its newest value. */
export const STATISTICS = ["min", "max", "mean", "first", "count"];

/** The parts of a name: `{group, key, stat}`; `stat` is empty for a newest value and for what is no metric. */
export function parts(name) {
  const match = NAME.exec(name);
  if (!match) return { group: "", key: name, stat: "" };
  const { group, quoted, key, stat = "" } = match.groups;
  if (group === "metrics") return { group, key: quoted ?? key, stat: stat === "last" ? "" : stat };
  return { group, key: quoted ?? (stat ? `${key}.${stat}` : key), stat: "" };
}

/** The name of these parts, quoted where the grammar of filters and orders wants it. */
export function spelled({ group, key, stat = "" }) {
  const plain = PLAIN.test(key) && !LIKE_A_STATISTIC.test(key);
  return `${group}.${plain || group === "attributes" ? key : `\`${key}\``}${stat ? `.${stat}` : ""}`;
}

/** The one spelling of a name. */
export const canonical = (name) => (name === "run_id" ? "attributes.run_id" : spelled(parts(name)));

/** Whether this means several columns. */
export const isGlob = (name) => /[*?[]/.test(name);
