/** The tiles with the highest and the lowest attention; each flies to its place. */
import { el } from "./dom.js";
import { number, t } from "./texts.js";

export const GALLERY_TILES = 12;
const PICTURE_PX = 128;

export class Gallery {
  constructor() {
    this.element = el("section", { class: "gallery" });
    this.pane = null;
  }

  /** Show those of `pane` in its head; `fly(tile, place, count)` is called for the one chosen. */
  show(pane, fly) {
    this.pane = pane;
    const values = pane.layer && pane.layer.column(pane.head, "percentile");
    if (!values) {
      this.element.replaceChildren(el("h2", {}, t("gallery")),
        el("p", { class: "quiet" }, pane.layer ? t("no_attention") : t("no_layer")));
      return;
    }
    const order = pane.layer.order(values);
    this.top = [...order.slice(0, GALLERY_TILES)];
    const rest = Math.max(0, Math.min(GALLERY_TILES / 2, order.length - GALLERY_TILES));
    const bottom = rest > 0 ? [...order.slice(-rest)].reverse() : [];
    const lowest = bottom.length === 0 ? []
      : [el("h2", {}, t("gallery_bottom")), this.grid(pane, bottom, values, fly, "bottom")];
    this.element.replaceChildren(
      el("h2", {}, t("gallery_top")), this.grid(pane, this.top, values, fly, "top"),
      ...lowest, el("p", { class: "quiet" }, t("gallery_note")));
  }

  grid(pane, tiles, values, fly, kind) {
    return el("ol", { class: "tiles" }, tiles.map((tile, place) => {
      const label = t("tile_rank", { place: place + 1, count: tiles.length,
        rank: number(values[tile], 1, 1) });
      const address = pane.tileAddress(tile, PICTURE_PX);
      const picture = address
        ? el("img", { src: address, alt: "", width: PICTURE_PX, height: PICTURE_PX,
          loading: "lazy" })
        : el("span", { class: "no-picture" });
      return el("li", {}, el("button", { type: "button", class: "tile", "aria-label": label,
        "data-tile": tile, "data-kind": kind, title: label,
        onclick: () => fly(tile, place + 1, tiles.length) },
      picture, el("span", { class: "rank", "aria-hidden": "true" }, number(values[tile], 1, 1))));
    }));
  }

  /** Mark the tile that is in focus. */
  mark(tile) {
    for (const button of this.element.querySelectorAll("[data-tile]")) {
      button.setAttribute("aria-current", String(Number(button.dataset.tile) === tile));
    }
  }
}
