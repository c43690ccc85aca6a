/** The page: what is chosen, what is known of it, and which charts there are. */

import { Chart } from "./chart.js";
import { globPattern } from "./curves.js";
import { byId, debounced, el } from "./dom.js";
import { Live } from "./live.js";
import { showNothing } from "./nothing.js";
import { dark, swatch } from "./palette.js";
import { Pickers } from "./pickers.js";
import * as server from "./server.js";
import { EMPTY, fromQuery, toQuery } from "./state.js";
import { Store } from "./store.js";
import { TableView } from "./table/view.js";
import { connectTools, showLive, showTools, tellTrouble } from "./tools.js";

const CHOSEN_AT_FIRST = 5;
const MOST_RUNS = 100;
const CHARTS_AT_ONCE = 24;
const LONGEST_NAMES = 1_500;
const REFRESH_MS = 10_000;
// Changes that one goes back over; others only replace the address.
const STEPS = ["view", "experiments", "runs", "keys", "x", "log", "bands", "cols", "sort", "group", "plot", "axes", "only"];

class Page {
  constructor() {
    this.store = new Store(fromQuery(location.search));
    this.experiments = [];
    this.listed = [];
    this.runsKnown = false;
    this.moreRuns = null;
    this.chosen = [];
    this.keys = [];
    this.matched = [];
    this.charts = new Map();
    this._runs = new Map();
    this._slots = new Map();
    this._room = CHARTS_AT_ONCE;
    this._pickers = new Pickers(this);
    this._live = new Live({
      onPoints: (columns) => this._arrived(columns),
      onGap: () => this._reloadCharts(),
      onState: (open) => showLive(open),
    });
    this._seen = new IntersectionObserver((entries) => this._scrolled(entries), { rootMargin: "300px" });
    this._listen();
    this.table = new TableView(this);
    this._connectTools();
  }

  get state() {
    return this.store.state;
  }

  async start() {
    byId("mlflow").href = server.mlflowHome();
    showTools(this.state);
    await this.guard(async () => {
      const known = server.experiments().then((found) => (this.experiments = found));
      if (!this.state.experiments.length && this.state.runs.length) await this._experimentsOfRuns();
      await known;
      if (!this.state.experiments.length && this.experiments.length) {
        const newest = await server.searchRuns(
          this.experiments.slice(0, 100).map(({ id }) => id),
          "",
          { limit: 1 },
        );
        this._put({ experiments: [newest.runs[0]?.experiment ?? this.experiments[0].id] });
      }
      this._pickers.showExperiments();
      if (this.state.view === "table") await Promise.all([this.table.update(), this._showRuns()]);
      else await this._loadRuns();
    });
    setInterval(() => document.hidden || this._refresh(), REFRESH_MS);
  }

  /** Change the state, and with it the address and whatever shows it. */
  change(patch) {
    // A zoom is in the units of its axis.
    if (this.store.differences(patch).includes("x")) Object.assign(patch, { from: null, to: null });
    return this.store.change(patch);
  }

  /** Choose a run, or leave it out. */
  choose(runId, on) {
    const others = this.state.runs.filter((id) => id !== runId);
    if (on && others.length >= MOST_RUNS) return tellTrouble(`At most ${MOST_RUNS} runs are shown at once`);
    return this.change({ runs: on ? [...others, runId] : others });
  }

  zoom(from, to) {
    if (to > from) this.change({ from, to });
  }

  unzoom() {
    this.change({ from: null, to: null });
  }

  async loadMoreRuns() {
    await this.guard(async () => {
      const found = await this._search({ token: this.moreRuns });
      this.listed.push(...found.runs);
      this.moreRuns = found.next;
      this._pickers.showRuns();
    });
  }

  /** What was found out: nobody has changed it, but the address holds it. */
  _put(patch) {
    this.store.put(patch);
    this._showAddress();
  }

  _showAddress(step = false) {
    const query = toQuery(this.state);
    const address = `${location.pathname}${query && `?${query}`}`;
    if (step) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }

  /** What shows which part of the state, in the order in which it is shown. */
  _listen() {
    const { store } = this;
    store.on(Object.keys(EMPTY), (state, _, changed) => {
      if (!this._travelling) this._showAddress(STEPS.some((name) => changed.has(name)));
      showTools(state);
      this._pickers.showState();
    });
    store.on(["experiments"], () => {
      this._emptied = false;
      this._pickers.showExperiments();
    });
    store.on(["view", "experiments", "filter", "runs"], (state, _, changed) =>
      this.guard(() => {
        if (changed.has("experiments") || changed.has("filter")) this.runsKnown = false;
        // The table is its own list.
        return state.view === "curves" && !this.runsKnown ? this._loadRuns() : this._showRuns();
      }),
    );
    store.on(["keys"], () => {
      this._room = CHARTS_AT_ONCE;
      this._showKeys();
      this._follow();
    });
    store.on(["from", "to", "x", "bands"], (_, __, changed) => {
      const zoomed = changed.has("from") || changed.has("to") || changed.has("x");
      this._eachSeen((chart) => (zoomed && chart.loadDetail(), chart.loadBand()));
    });
    store.on(["smooth", "log", "x"], () => this._eachSeen((chart) => chart.draw()));
  }

  _eachSeen(act) {
    for (const chart of this.charts.values()) act(chart);
  }

  async _experimentsOfRuns() {
    const found = await Promise.all(this.state.runs.slice(0, MOST_RUNS).map((id) => this._known(id)));
    this._put({ experiments: [...new Set(found.filter(Boolean).map((run) => run.experiment))] });
  }

  /** A run, asked for if need be; null if there is none. */
  async _known(runId) {
    if (!this._runs.has(runId)) {
      try {
        this._runs.set(runId, await server.getRun(runId));
      } catch (error) {
        if (!(error instanceof server.Refused)) throw error;
        this._runs.set(runId, null);
        tellTrouble(error.message);
      }
    }
    return this._runs.get(runId);
  }

  async _search(options = {}) {
    const { experiments, filter } = this.state;
    if (!experiments.length) return { runs: [], next: undefined };
    const found = await server.searchRuns(experiments, server.asFilter(filter), options);
    for (const run of found.runs) this._runs.set(run.id, run);
    return found;
  }

  async _loadRuns() {
    this._searching?.abort();
    this._searching = new AbortController();
    const found = await this._search({ signal: this._searching.signal });
    this.listed = found.runs;
    this.moreRuns = found.next;
    this.runsKnown = true;
    if (!this.state.runs.length && found.runs.length && !this._emptied) {
      const logging = found.runs.filter((run) => run.keys.length);
      const first = (logging.length ? logging : found.runs).slice(0, CHOSEN_AT_FIRST);
      this._put({ runs: first.map((run) => run.id) });
    }
    await this._showRuns();
  }

  /** The chosen runs, their colours, their metrics. */
  async _showRuns() {
    const wanted = this.state.runs.slice(0, MOST_RUNS);
    if (wanted.length < this.state.runs.length) tellTrouble(`Only the first ${MOST_RUNS} runs are shown`);
    const runs = (await Promise.all(wanted.map((id) => this._known(id)))).filter(Boolean);
    for (const id of this._slots.keys()) if (!wanted.includes(id)) this._slots.delete(id);
    for (const { id } of runs) {
      const used = new Set(this._slots.values());
      let slot = 0;
      while (used.has(slot)) slot++;
      if (!this._slots.has(id)) this._slots.set(id, slot);
    }
    const before = this.chosen.map((run) => run.id).join();
    this.chosen = runs.map((run) => ({ ...run, slot: this._slots.get(run.id) }));
    this._emptied = !this.chosen.length && this.listed.length > 0;
    this._showLegend();
    this._pickers.showRuns();
    this.table.showChosen();
    if (before !== this.chosen.map((run) => run.id).join()) await this._follow();
    this._showKeys();
    if (before !== this.chosen.map((run) => run.id).join()) this._reloadCharts();
  }

  _showLegend() {
    byId("legend").replaceChildren(
      ...this.chosen.map((run) => {
        const leave = {
          type: "button",
          onclick: () => this.choose(run.id, false),
          "aria-label": `Leave out ${run.name}`,
        };
        const link = el(
          "a",
          { class: "name", href: server.mlflowRun(run), title: `${run.name}: this run in MLflow` },
          run.name,
        );
        const light = (on) => () => this._eachSeen((chart) => chart.highlight(on ? run.id : null));
        const hover = {
          onpointerenter: light(true),
          onpointerleave: light(false),
          onfocusin: light(true),
          onfocusout: light(false),
        };
        return el(
          "span",
          { class: "chip", data: { run: run.id }, ...hover },
          swatch(run.slot),
          link,
          el("button", leave, "×"),
        );
      }),
    );
  }

  /** The metrics of the chosen runs, and a chart for each one that the globs mean. */
  _showKeys() {
    const known = new Set(this.chosen.flatMap((run) => this._runs.get(run.id)?.keys ?? []));
    const patterns = this.state.keys.map(globPattern);
    this.keys = [...known].sort((a, b) => (a < b ? -1 : 1));
    this.matched = this.keys.filter((key) => patterns.some((pattern) => pattern.test(key)));
    this._pickers.showState();
    this._pickers.showKeys();
    this._showCharts();
  }

  _showCharts() {
    const wanted = this.matched.slice(0, this._room);
    for (const [key, chart] of this.charts) {
      if (wanted.includes(key)) continue;
      this._seen.unobserve(chart.figure);
      chart.destroy();
      this.charts.delete(key);
    }
    wanted.forEach((key, place) => {
      let chart = this.charts.get(key);
      if (!chart) {
        this.charts.set(key, (chart = new Chart(key, this)));
        chart.figure.chart = chart;
      }
      const there = byId("charts").children[place];
      if (there !== chart.figure) byId("charts").insertBefore(chart.figure, there ?? null);
      this._seen.observe(chart.figure);
    });
    const hidden = this.matched.length - wanted.length;
    byId("more").hidden = hidden <= 0;
    byId("more").textContent = `Show ${Math.min(hidden, CHARTS_AT_ONCE)} of ${hidden} more`;
    showNothing(this);
  }

  _scrolled(entries) {
    for (const { target, isIntersecting } of entries) target.chart?.see(isIntersecting);
  }

  _reloadCharts() {
    this._eachSeen((chart) => chart.reload());
  }

  _follow() {
    const names = this.state.keys;
    // Long lists do not fit an address; then all metrics come, and those that nobody sees are passed over.
    const keys = names.includes("*") || names.join().length > LONGEST_NAMES ? [] : names;
    if (!this.chosen.length) showLive(null);
    return this._live.follow(
      this.chosen.map((run) => run.id),
      keys,
    );
  }

  _arrived({ run_id: runId, key, step, timestamp, value }) {
    const run = this._runs.get(runId);
    let unknown = false;
    for (let i = 0; i < key.length; i++) {
      this.charts.get(key[i])?.add(runId, step[i], timestamp[i], Number(value[i]));
      if (run && !this.charts.has(key[i]) && !run.keys.includes(key[i])) {
        run.keys.push(key[i]);
        unknown = true;
      }
    }
    if (unknown) this._showKeysSoon();
  }

  _showKeysSoon = debounced(() => this._showKeys(), 200);

  /** Runs come, end, and get new metrics. */
  async _refresh() {
    if (server.away.count || this._refreshing) return;
    this._refreshing = true;
    try {
      await this.guard(async () => {
        if (this.state.view === "table") return this.table.refresh();
        const ended = new Set(this.chosen.filter((run) => run.status === "RUNNING").map((run) => run.id));
        const asked = [this.state.experiments, this.state.filter].join();
        const found = await this._search();
        if (asked !== [this.state.experiments, this.state.filter].join()) return;
        const fresh = new Set(found.runs.map((run) => run.id));
        // Older ones, which were listed on request, stay.
        this.listed = [...found.runs, ...(found.next ? this.listed.filter((run) => !fresh.has(run.id)) : [])];
        for (const { id } of this.chosen) {
          if (!fresh.has(id)) this._runs.set(id, await server.getRun(id));
          if (this._runs.get(id).status === "RUNNING") ended.delete(id);
        }
        if (!this.state.runs.length && !this._emptied) await this._loadRuns();
        else await this._showRuns();
        if (ended.size) this._reloadCharts();
      });
    } finally {
      this._refreshing = false;
    }
  }

  _connectTools() {
    connectTools((patch) => this.change(patch));
    byId("more").addEventListener("click", () => ((this._room += CHARTS_AT_ONCE), this._showCharts()));
    dark.addEventListener("change", () => {
      this._showLegend();
      this._pickers.showRuns();
      this.table.showChosen();
      this._eachSeen((chart) => chart.draw());
    });
    addEventListener("popstate", () => {
      this._travelling = true;
      const told = this.store.change({ ...EMPTY, ...fromQuery(location.search) });
      this._travelling = false;
      return told;
    });
    new ResizeObserver(() => this._eachSeen((chart) => chart.fit())).observe(byId("charts"));
    server.away.listener = (isAway) => {
      tellTrouble(isAway ? "The server is away; trying again until it is back" : "");
    };
  }

  async guard(work) {
    try {
      await work();
      if (!server.away.count && this._guarded) tellTrouble("");
      this._guarded = false;
    } catch (error) {
      if (error.name === "AbortError") return;
      this._guarded = true;
      tellTrouble(error.message);
    }
  }
}

const page = new Page();
// For whoever looks at the page from a console, or a test.
Object.assign(window, { runstreamPage: page });
page.start();
