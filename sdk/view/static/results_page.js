/** The list of results: search, filters, order. */
import { getJson, pageAddress } from "./api.js";
import { addressHash } from "./address.js";
import { check, choice, el, say } from "./dom.js";
import { listen } from "./events.js";
import { pageHead } from "./page_head.js";
import { callChip, callText, whyNot } from "./predictions.js";
import { number, t, when } from "./texts.js";

const SHOWN_AT_ONCE = 200;
const kept = { search: "", call: "", quality: "", warned: false, order: "slide", down: false };

const COLUMNS = [
  ["slide", (one) => (one.slide ?? one.name).toLowerCase()],
  ["calls", (one) => one.predictions?.map((each) => `${each.head} ${each.call}`).join() ?? ""],
  ["warnings", (one) => one.warnings ?? -1],
  ["tissue", (one) => one.quality?.tissue_area_mm2 ?? -1],
  ["tiles", (one) => one.tiles ?? -1],
  ["made", (one) => one.created ?? ""],
];

const QUALITY = {
  damaged: (one) => (one.quality?.damaged_tiles ?? 0) > 0,
  pen: (one) => (one.quality?.pen_share ?? 0) > 0,
  partial: (one) => one.partial === true,
  sound: (one) => one.state === "ready" && !Object.entries(QUALITY).some(
    ([name, holds]) => name !== "sound" && holds(one)),
};

export class ResultsPage {
  constructor(host, context) {
    this.results = new Map();
    this.limit = SHOWN_AT_ONCE;
    this.context = context;
    this.body = el("tbody");
    this.count = el("p", { class: "quiet", role: "status" });
    this.more = el("button", { type: "button", hidden: true, onclick: () => {
      this.limit *= 4;
      this.draw();
    } }, t("show_more"));
    this.filters = el("form", { class: "filters", role: "search",
      onsubmit: (event) => event.preventDefault() });
    this.headings = el("tr");
    host.append(pageHead(context, el("h1", {}, t("results_of", { folder: context.facts.folder }))),
      el("main", { class: "list" }, this.filters, this.count,
        el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": t("results") },
          el("table", {}, el("thead", {}, this.headings), this.body)),
        this.more, el("p", { class: "quiet" }, t("common.research_use"))));
    document.title = t("title");
    this.stops = [listen("results", (event) => this.update(event)),
      listen("open", () => this.load())];
    this.load();
  }

  close() {
    for (const stop of this.stops) stop();
  }

  async load() {
    try {
      const found = await getJson("/api/results");
      this.results = new Map(found.map((one) => [one.name, one]));
    } catch (error) {
      this.count.replaceChildren(el("span", { class: "notice danger" }, error.message));
      return;
    }
    this.drawFilters();
    this.drawHeadings();
    this.draw();
  }

  update({ changed, gone }) {
    for (const one of changed) this.results.set(one.name, one);
    for (const name of gone) this.results.delete(name);
    say(t("results_changed", { count: changed.length + gone.length }));
    this.drawFilters();
    this.draw(new Set(changed.map((one) => one.name)));
  }

  drawFilters() {
    const focused = document.activeElement?.getAttribute("data-filter");
    const calls = new Map();
    for (const { predictions = [] } of this.results.values()) {
      for (const one of predictions) {
        calls.set(`${one.head}\n${one.call}`, `${one.gene}: ${callText(one)}`);
      }
    }
    const set = (key) => (value) => {
      kept[key] = value;
      this.limit = SHOWN_AT_ONCE;
      this.draw();
    };
    const search = el("input", { type: "search", placeholder: t("search"), autocomplete: "off",
      "aria-label": t("search"), "data-filter": "search", maxlength: 200,
      oninput: () => set("search")(search.value) });
    search.value = kept.search;
    this.filters.replaceChildren(search,
      choice(t("filter_call"), [["", t("filter_call_any")], ...[...calls].sort((a, b) =>
        a[1].localeCompare(b[1]))], kept.call, set("call"), { "data-filter": "call" }),
      choice(t("filter_quality"), ["", "sound", "damaged", "pen", "partial"].map((key) =>
        [key, t(`filter_quality_${key || "any"}`)]), kept.quality, set("quality"),
      { "data-filter": "quality" }),
      check(t("filter_warned"), kept.warned, set("warned"), { "data-filter": "warned" }));
    if (focused) this.filters.querySelector(`[data-filter=${focused}]`)?.focus();
  }

  drawHeadings() {
    this.headings.replaceChildren(...COLUMNS.map(([name]) => {
      const on = kept.order === name;
      const button = el("button", { type: "button", class: "heading", onclick: () => {
        kept.down = on && !kept.down;
        kept.order = name;
        this.drawHeadings();
        this.draw();
        this.headings.querySelector(`[data-column=${name}] button`).focus();
      } }, t(`column_${name}`), el("span", { "aria-hidden": "true" },
        on ? (kept.down ? " ▼" : " ▲") : ""));
      return el("th", { scope: "col", "data-column": name, class: NUMBERS.has(name) ? "number" : null,
        "aria-sort": on ? (kept.down ? "descending" : "ascending") : null }, button);
    }));
  }

  matching() {
    const words = kept.search.toLowerCase().split(/\s+/).filter(Boolean);
    const [head, call] = kept.call.split("\n");
    const key = COLUMNS.find(([name]) => name === kept.order)[1];
    const sign = kept.down ? -1 : 1;
    return [...this.results.values()].filter((one) => {
      const text = [one.name, one.slide, one.bundle, ...one.slides ?? []].join(" ").toLowerCase();
      return words.every((each) => text.includes(each))
        && (!kept.call || one.predictions?.some((each) => each.head === head && each.call === call))
        && (!kept.quality || QUALITY[kept.quality](one))
        && (!kept.warned || one.warnings > 0);
    }).sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      const order = x < y ? -1 : x > y ? 1 : 0;
      return sign * order || a.name.localeCompare(b.name);
    });
  }

  draw(fresh = new Set()) {
    const found = this.matching();
    this.count.textContent = t("results_count", { shown: number(found.length),
      total: number(this.results.size) });
    this.body.replaceChildren(...found.slice(0, this.limit).map((one) => row(one, fresh)));
    if (this.results.size === 0) {
      this.body.append(el("tr", {}, el("td", { colspan: COLUMNS.length }, t("no_results"))));
    }
    this.more.hidden = found.length <= this.limit;
  }
}

const NUMBERS = new Set(["warnings", "tissue", "tiles"]);

/** A case leads to its page and to its slides. */
function caseCell(one) {
  return [el("span", { class: "chip" }, t("case_short")), " ",
    el("a", { href: pageAddress(one), target: "_blank", rel: "noopener" }, one.slide),
    el("div", { class: "slides quiet" }, t("case_slides"), one.slides.map((name) =>
      [" ", el("a", { href: addressHash({ name }) }, name)]))];
}

function row(one, fresh) {
  const attributes = { class: fresh.has(one.name) ? "fresh" : null };
  if (one.state !== "ready") {
    return el("tr", attributes, el("td", {}, one.name.replace(/^case:/, "")),
      el("td", { colspan: COLUMNS.length - 1 },
        el("span", { class: `chip ${one.state === "writing" ? "" : "danger"}` },
          t(`state_${one.state}_short`)), " ", whyNot(one)));
  }
  const area = one.quality.tissue_area_mm2;
  const damaged = one.quality.damaged_tiles ?? 0;
  return el("tr", attributes,
    el("th", { scope: "row" }, one.is_case ? caseCell(one)
      : el("a", { href: addressHash({ name: one.name }) }, one.slide)),
    el("td", {}, el("div", { class: "calls" }, one.predictions.map((each) => [callChip(each),
      each.mean_call === undefined || each.mean_call === each.call ? null
        : el("span", { class: "chip warning" }, t("case_mean", { call: callText(
          { call: each.mean_call }) }))]),
      one.partial ? el("span", { class: "chip warning" }, t("partial_short")) : null)),
    el("td", { class: "number" }, one.warnings
      ? el("span", { class: "chip warning" }, `⚠ ${one.warnings}`) : "0"),
    el("td", { class: "number" }, area === undefined ? "–"
      : t("common.area_mm2", { value: number(area, area < 10 ? 2 : 0) })),
    el("td", { class: "number" }, number(one.tiles), damaged ? " " : null, damaged
      ? el("span", { class: "chip warning" }, t("damaged_short", { count: number(damaged) })) : null),
    el("td", { class: "made" }, when(one.created)));
}
