/** The bar above the table: filter, groups, picture, copies. */

import { byId, debounced, el } from "../dom.js";
import { tellTrouble } from "../tools.js";
import { parts } from "./names.js";

const SAID_MS = 1_500;

export class TableTools {
  /**
   * @param {import("../store.js").Store<import("../state.js").State>} store
   * @param {{csv: () => string, pandas: () => string, reload: () => unknown, more: () => unknown}} on
   */
  constructor(store, on) {
    this._store = store;
    const change = (patch) => store.change(patch);
    byId("table-tools").addEventListener("submit", (event) => event.preventDefault());
    byId("table-filter").addEventListener(
      "input",
      debounced((event) => change({ filter: event.target.value.trim() }), 250),
    );
    for (const id of ["group-by", "then-by"])
      byId(id).addEventListener("change", () =>
        change({ group: [...new Set([byId("group-by").value, byId("then-by").value].filter(Boolean))] }),
      );
    for (const radio of document.querySelectorAll('input[name="plot"]')) {
      const { value } = /** @type {HTMLInputElement} */ (radio);
      radio.addEventListener("change", () => change({ plot: value, axes: [] }));
    }
    byId("only").addEventListener("change", (event) => change({ only: event.target.checked }));
    byId("copy-csv").addEventListener("click", () => copy(byId("copy-csv"), on.csv()));
    byId("copy-pandas").addEventListener("click", () => copy(byId("copy-pandas"), on.pandas()));
    byId("reload").addEventListener("click", () => on.reload());
    byId("more-runs").addEventListener("click", () => on.more());
  }

  /** @param {import("../state.js").State} state */
  show({ filter, group, plot, only, cols }) {
    if (document.activeElement !== byId("table-filter")) byId("table-filter").value = filter;
    byId("only").checked = only;
    /** @type {HTMLInputElement} */ (document.querySelector(`input[name="plot"][value="${plot}"]`)).checked = true;
    this._group = group;
    this._cols = cols;
    this.groupable(this._names ?? []);
  }

  /** Columns that runs can be grouped by. */
  groupable(names) {
    this._names = names;
    const [first = "", second = ""] = this._group ?? [];
    this._fill(byId("group-by"), ["", ...names], first);
    this._fill(byId("then-by"), ["", ...names.filter((name) => name !== first)], second);
    byId("then-by").parentElement.hidden = !first;
  }

  _fill(select, names, chosen) {
    const all = chosen && !names.includes(chosen) ? [...names, chosen] : names;
    const key = JSON.stringify(all);
    if (select.dataset.key !== key) {
      select.dataset.key = key;
      select.replaceChildren(...all.map((name) => el("option", { value: name }, name ? parts(name).key : "none")));
    }
    select.value = chosen;
  }

  /** How many there are. */
  count(text) {
    byId("table-count").textContent = text;
  }

  /** Whether there are more runs than were loaded. */
  more(there) {
    byId("more-runs").hidden = !there;
  }
}

/** Put a text on the clipboard, and say so on its button. */
async function copy(button, text) {
  const label = button.dataset.label ?? button.textContent;
  button.dataset.label = label;
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyAsBefore(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), SAID_MS);
  } catch {
    tellTrouble("The browser does not let this page copy");
  }
}

/** Pages without TLS have no other clipboard. */
function copyAsBefore(text) {
  const area = /** @type {HTMLTextAreaElement} */ (el("textarea", { class: "away" }));
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("not copied");
}
