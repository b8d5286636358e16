/** The tiles behind an answer: those that spoke for it and against it, and those attended to most. */
import { el } from "./dom.js";
import { number, probability, t, word } from "./texts.js";

const MOST = 12;
const LEAST = 6;
const PICTURE_PX = 128;

export class Gallery {
  constructor() {
    this.element = el("section", { class: "gallery" });
    this.top = [];
  }

  /** Show those of `pane` in its head; `fly(place, number, count)` is called for the one chosen. A
   * place is {x, y, tile, label, short}: level-0 pixels, the layer's tile there (-1: none), words. */
  show(pane, fly) {
    const { layer, report } = pane;
    const values = pane.column("percentile");
    const evidence = report.evidence?.[pane.head] ?? null;
    this.top = [];
    const parts = [];
    const add = (heading, places, kind, none) => {
      if (places.length === 0 && !none) return;
      parts.push(el("h2", {}, heading), places.length === 0 ? el("p", { class: "quiet" }, none)
        : this.grid(pane, places, fly, kind));
      if (this.top.length === 0) this.top = places;
    };
    if (evidence) {
      const about = word(pane.prediction().classes[evidence.class]);
      const tried = evidence.tiles_tried;
      const places = (tiles) => tiles.map(({ xy, probability_alone: alone }) =>
        pane.placeOf(xy, t("report.alone", { p: probability(alone) }), probability(alone)));
      add(t("report.tiles_for", { about }), places(evidence.tiles_for), "for",
        t("report.no_tiles_for", { tried }));
      add(t("report.tiles_against", { about }), places(evidence.tiles_against), "against",
        t("report.no_tiles_against", { tried }));
      parts.push(el("p", { class: "quiet" }, t("gallery_alone", { about })));
    }
    if (values) {
      const order = layer.order(values);
      const places = (tiles) => [...tiles].map((tile) => {
        const rank = number(values[tile], 1, 1);
        return pane.placeOfTile(tile, `${t("common.percentile")} ${rank}`, rank);
      });
      add(t("gallery_top"), places(order.slice(0, MOST)), "top", null);
      const least = evidence ? 0 : Math.max(0, Math.min(LEAST, order.length - MOST));
      add(t("gallery_bottom"), places(order.slice(order.length - least).reverse()), "bottom", null);
      if (!evidence) parts.push(el("p", { class: "quiet" }, t("gallery_note")));
    }
    if (parts.length === 0) {
      parts.push(el("h2", {}, t("gallery")),
        el("p", { class: "quiet" }, layer ? t("no_attention") : t("no_layer")));
    }
    this.element.replaceChildren(...parts);
  }

  grid(pane, places, fly, kind) {
    return el("ol", { class: "tiles" }, places.map((place, at) => {
      const label = t("tile_of", { place: at + 1, count: places.length, what: place.label });
      const address = pane.tileAddress(place, PICTURE_PX);
      const picture = address
        ? el("img", { src: address, alt: "", width: PICTURE_PX, height: PICTURE_PX,
          loading: "lazy" })
        : el("span", { class: "no-picture" });
      return el("li", {}, el("button", { type: "button", class: "tile", "aria-label": label,
        "data-place": `${place.x},${place.y}`, "data-kind": kind, title: label,
        disabled: !pane.slide, onclick: () => fly(place, at + 1, places.length) },
      picture, el("span", { class: "rank", "aria-hidden": "true" }, place.short)));
    }));
  }

  /** Mark the tile that is in focus. */
  mark(place) {
    for (const button of this.element.querySelectorAll("[data-place]")) {
      button.setAttribute("aria-current", String(button.dataset.place === `${place.x},${place.y}`));
    }
  }
}
