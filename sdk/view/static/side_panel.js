/** Beside the slide: warnings first, the answers, how they are drawn, tiles, quality, provenance. */
import { pageAddress } from "./api.js";
import { check, choice, el } from "./dom.js";
import { callText, probabilityScale } from "./predictions.js";
import { number, probability, sentence, t, when, word } from "./texts.js";

export class SidePanel {
  constructor(page) {
    this.page = page;
    this.warnings = el("section");
    this.answers = el("section");
    this.controls = el("section", { class: "controls" });
    this.facts = el("section");
    this.element = el("aside", { "aria-label": t("panel") }, this.warnings, this.answers,
      this.controls, page.gallery.element, this.facts);
  }

  show(pane) {
    this.pane = pane;
    this.drawWarnings();
    this.drawAnswers();
    this.drawControls();
    this.drawFacts();
  }

  drawWarnings() {
    const { report, said } = this.pane;
    const texts = report.warnings.map((text) => sentence(text, said));
    if (report.partial) {
      const { tiles_done: done, tiles_total: total, why } = report.partial;
      texts.unshift([t("partial", { done: number(done),
        total: total === null ? "?" : number(total) }), " ", sentence(why, said)]);
    }
    this.warnings.replaceChildren(...(texts.length === 0 ? [] : [
      el("h2", {}, `⚠ ${t("common.warnings")} (${texts.length})`),
      el("ul", { class: "notice warning" }, texts.map((text) => el("li", {}, text)))]));
  }

  drawAnswers() {
    const { pane } = this;
    this.answers.replaceChildren(el("h2", {}, t("answers")),
      el("p", { class: "quiet" }, report_use(pane)),
      siteUsed(pane.report.provenance.site),
      el("ul", { class: "answers" }, pane.predictions.map((one) => el("li", {},
        el("button", { type: "button", class: "answer", "data-head": one.head,
          "aria-pressed": String(one.head === pane.head),
          onclick: () => {
            this.page.setHead(pane, one.head);
            this.answers.querySelector("[aria-pressed=true]").focus();
          } },
        el("span", { class: "answer-call" }, el("b", {}, one.gene ?? one.head), " ",
          callText(one), one.has_attention ? null
            : el("small", { class: "quiet" }, ` (${t("no_map")})`)),
        probabilityScale(one))))),
      faithfulness(pane), el("p", { class: "quiet" }, t("common.attention_is")));
  }

  drawControls() {
    const { page, pane } = this;
    if (!pane?.report) return;
    const { settings } = page;
    const focused = document.activeElement?.getAttribute("data-control");
    const opacity = el("input", { type: "range", min: 0, max: 100, step: 1, "data-control": "opacity",
      "aria-label": t("opacity"), oninput: () => {
        page.setOpacity(opacity.value / 100);
        shown.textContent = t("common.percent", { value: opacity.value });
      } });
    opacity.value = Math.round(100 * settings.opacity);
    const shown = el("output", { class: "number" },
      t("common.percent", { value: opacity.value }));
    const box = (what, on = true) => check(t(what), settings[what], (value) =>
      page.toggle(what, value), { "data-control": what, disabled: !on });
    const slide = pane.slide !== null;
    this.controls.replaceChildren(el("h2", {}, t("display")),
      el("div", { class: "row" }, el("span", {}, t("opacity")), opacity, shown),
      this.classChoice(),
      el("div", { class: "row" }, el("span", {}, t("value")), choice(t("value"),
        [["percentile", t("value_percentile")], ["weight", t("value_weight")]], settings.value,
        (value) => page.setValue(value), { "data-control": "value" })),
      el("div", { class: "row wrap" }, box("outlines", slide), box("tissue", slide),
        box("flaws", slide && pane.flawed),
        page.panes.length > 1 ? box("linked") : ""),
      el("div", { class: "row wrap" }, ...[["zoom_in", "+", () => pane.zoom(1.5)],
        ["zoom_out", "−", () => pane.zoom(1 / 1.5)], ["home", "⤢", () => pane.home()],
        ["turn", "↻", () => pane.turn(90)], ["turn_back", "↺", () => pane.turn(-90)],
      ].map(([name, sign, act]) => el("button", { type: "button", class: "sign",
        "aria-label": t(name), title: t(name), disabled: !pane.viewer, onclick: act }, sign))));
    if (focused) this.controls.querySelector(`[data-control=${focused}]`)?.focus();
  }

  /** For which class attention is shown, of heads that have it for each. */
  classChoice() {
    const { page, pane } = this;
    const classes = pane.classes();
    if (classes.length === 0) return "";
    return el("div", { class: "row" }, el("span", {}, t("class_shown")), choice(t("class_shown"),
      classes.map((name) => [name, word(name)]), pane.about ?? classes[0],
      (name) => page.setClass(name), { "data-control": "class" }));
  }

  drawFacts() {
    const { report, slide } = this.pane;
    const { bundle, engines, site, tiles } = report.provenance;
    const quality = [
      ["tissue_area_mm2", (value) => t("common.area_mm2", { value: number(value, 2) })],
      ["tissue_share", percent],
      ["tissue_regions", number],
      ["pieces", number],
      ["damaged_tiles", number],
      ["out_of_focus_tiles", number],
      ["pen_tiles", number],
      ["bubble_tiles", number],
      ["burnt_tiles", number],
      ["fold_tiles", number],
      ["unusable_tiles", number],
      ["excluded_tiles", number],
      ["pen_share", percent],
    ].filter(([name]) => report.quality[name] !== undefined && report.quality[name] !== null)
      .map(([name, shown]) => [t(`quality_${name}`), shown(report.quality[name])]);
    const engine = engines.encoder;
    const made = [
      [t("common.created"), when(report.created)],
      [t("common.bundle"), `${bundle.name} ${bundle.version} (${bundle.sha256.slice(0, 12)})`],
      ...(site ? [[t("report.site"), `${site.name} (${site.sha256.slice(0, 12)})`]] : []),
      [t("encoder"), `${engine.backend} ${engine.version}, ${engine.precision}, ${engine.device}`],
      [t("common.tiles"), t("tiles_are", { count: number(tiles.count), px: tiles.tile_px,
        mpp: number(tiles.mpp, 3) })],
      [t("schema"), String(report.schema_version)],
      ...(slide ? [[t("file"), t("file_is", { wide: number(slide.size_px[0]),
        high: number(slide.size_px[1]), mpp: slide.mpp === null ? t("common.unknown")
          : number(slide.mpp, 4), reader: slide.reader })]] : []),
    ];
    this.facts.replaceChildren(el("h2", {}, t("common.quality")), list(quality),
      el("p", { class: "quiet" }, t("layers_missing")),
      report_link(this.pane),
      el("details", {}, el("summary", {}, t("provenance")), list(made),
        el("ul", { class: "quiet" }, engines.notes.map((note) => el("li", {}, note)))));
  }
}

/** By which site profile the answers are given, if by one. */
function siteUsed(site) {
  return site ? el("p", { class: "notice" }, t("report.site_used", site)) : "";
}

/** Whether the attention of the pane's head explains its answer, where the report says. */
function faithfulness(pane) {
  const found = pane.report.evidence?.[pane.head];
  if (!found) return "";
  const measured = found.faithfulness;
  if (!measured) return el("p", { class: "quiet" }, t("report.too_few_tiles"));
  return el("p", { class: measured.explains ? "notice" : "notice warning" },
    el("b", {}, t(measured.explains ? "report.faithful" : "report.unfaithful")), " ",
    t("report.faithfulness", { removed: number(measured.tiles_removed),
      about: word(pane.prediction().classes[found.class]),
      ...Object.fromEntries([["whole", "whole"], ["without_top", "top"],
        ["without_random", "random"]].flatMap(([key, name]) => [
        [name, probability(measured[key].probability)],
        [`${name}_odds`, number(measured[key].log_odds, 1, 1)]])) }));
}

const percent = (value) => t("common.percent", { value: number(100 * value, 1) });
const report_link = (pane) => (pane.html ? el("p", {}, el("a", { href: pageAddress(pane),
  target: "_blank", rel: "noopener" }, t("report_page"))) : "");
const report_use = ({ report, said }) => (report.intended_use
  ? sentence(report.intended_use, said) : t("common.research_use"));
const list = (rows) => el("dl", {}, rows.map(([name, value]) =>
  [el("dt", {}, name), el("dd", {}, value)]).flat());
