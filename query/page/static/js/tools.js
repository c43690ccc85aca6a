/** The bars above the curves: how they are shown, whether the stream is open, what went wrong. */

import { byId } from "./dom.js";

/** One line about what went wrong; an empty one takes it away. */
export function tellTrouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = !text;
}

/** Whether live points arrive; `null`: none are asked for. */
export function showLive(open) {
  const live = byId("live");
  live.dataset.state = open === null ? "off" : open ? "on" : "broken";
  live.textContent = open ? "Live" : "Reconnecting …";
}

function tick(selector) {
  /** @type {HTMLInputElement} */ (document.querySelector(selector)).checked = true;
}

/** Show a state in the tools. */
export function showTools({ view, smooth, x, log, bands, from }) {
  document.body.dataset.view = view;
  tick(`input[name="view"][value="${view}"]`);
  byId("smooth").value = smooth;
  byId("smooth-value").textContent = smooth ? smooth.toFixed(2) : "off";
  tick(`input[name="x"][value="${x}"]`);
  tick(`input[name="y"][value="${log ? "log" : "linear"}"]`);
  byId("bands").value = bands;
  byId("bands").disabled = x !== "step";
  byId("bands").title = x === "step" ? "" : "Bands go by step";
  byId("unzoom").hidden = from === null;
}

/** Call `change` with what of the state a tool changes. */
export function connectTools(change) {
  const on = (element, event, patch) => element.addEventListener(event, () => change(patch(element)));
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  on(byId("smooth"), "input", ({ value }) => ({ smooth: Number(value) }));
  on(byId("bands"), "change", ({ value }) => ({ bands: value }));
  on(byId("unzoom"), "click", () => ({ from: null, to: null }));
  for (const radio of document.querySelectorAll('input[name="view"]')) {
    on(radio, "change", ({ value }) => ({ view: value }));
  }
  for (const radio of document.querySelectorAll('input[name="x"]')) {
    on(radio, "change", ({ value }) => ({ x: value }));
  }
  for (const radio of document.querySelectorAll('input[name="y"]')) {
    on(radio, "change", ({ value }) => ({ log: value === "log" }));
  }
  byId("copy").addEventListener("click", copyAddress);
}

async function copyAddress() {
  try {
    await navigator.clipboard.writeText(location.href);
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy link"), 1500);
  } catch {
    tellTrouble("The browser does not let this page copy; the address bar has the link");
  }
}
