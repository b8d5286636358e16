/** One slide with one head's answer on it. */
import { getBuffer, getJson, resultPath } from "./api.js";
import { el } from "./dom.js";
import { Layer } from "./layer.js";
import { Overlay } from "./overlay.js";
import { callText, isWithheld, statedClass } from "./predictions.js";
import { pictureSource, slideSource } from "./slide_source.js";
import { SlideView } from "./slide_view.js";
import { number, probability, t, when, word } from "./texts.js";

export class Pane extends SlideView {
  /** `page` is asked for what keys and clicks do, `settings` is how all panes draw. */
  constructor(page, host, notices, settings) {
    super(page);
    this.settings = settings;
    this.failed = 0;
    this.layer = null;
    this.overlay = null;
    this.head = null;
    this.about = null;
    this.title = el("div", { class: "pane-title" });
    this.notices = el("div");
    notices.append(this.notices);
    this.legend = el("div", { class: "legend" });
    this.readout = el("output", { class: "readout" });
    this.element = el("section", { class: "pane" }, this.title, this.stage);
    host.append(this.element);
    this.stage.append(this.legend, this.readout);
  }

  /** Load the result `name` and show `head`, or the first head there is. Raises ApiError. */
  async load(name, head) {
    this.name = name;
    // Asked for together; why there is no slide is said when the result is there.
    this.slideAnswer = getJson(resultPath(name, "slide")).catch((error) => error);
    const result = await getJson(resultPath(name));
    this.report = result.report;
    this.said = result.said;
    this.pictures = result.pictures;
    this.html = result.html;
    this.flawed = result.flaws;
    this.stamp = result.stamp;
    this.predictions = this.report.predictions;
    this.head = this.predictions.some((one) => one.head === head) ? head
      : (this.predictions.find((one) => one.has_attention) ?? this.predictions[0])?.head ?? null;
    const layer = result.layer ? this.loadLayer() : null;
    await this.loadSlide();
    if (this.closed) return;
    await this.open();
    layer?.then(() => this.closed || this.drawHead());
    await layer;
  }

  async loadLayer() {
    try {
      this.layer = new Layer(await getBuffer(resultPath(this.name, "layer")));
    } catch (error) {
      this.notice(error.message, "warning");
    }
  }

  async loadSlide() {
    const answer = await this.slideAnswer;
    if (answer instanceof Error) {
      const missing = answer.status === 404;
      this.notice(missing ? t("no_slide", { slide: this.report.slide })
        : t("slide_failed", { why: answer.message }), missing ? "" : "danger");
      return;
    }
    this.slide = answer;
    if (this.page.panes.some((one) => one !== this && one.name === this.name)) return;
    for (const { key, report, slide } of this.slide.differences) {
      const shown = key === "changed_newer" ? when : String;
      this.notice(t(key, { report: shown(report), slide: shown(slide) }), "warning");
    }
    if (this.slide.files > 1) {
      this.notice(t("several_files", { count: this.slide.files }), "warning");
    }
  }

  /** Say something that concerns this pane's result, with `more` elements, above the panes. */
  notice(text, kind = "", ...more) {
    const whose = this.page.panes.length > 1 && this.report ? `${this.report.slide}: ` : "";
    this.notices.append(el("p", { class: `notice ${kind}` }, whose, text, " ", more));
  }

  open() {
    const source = this.slide ? slideSource(this.name, this.slide) : this.picture();
    if (source === null) {
      this.notice(t("no_picture"), "");
      return Promise.resolve();
    }
    const viewer = this.makeViewer(t("pane_label", { slide: this.report.slide }));
    viewer.canvas.addEventListener("pointermove", (event) => this.read(event));
    viewer.canvas.addEventListener("pointerleave", () => this.readTile(this.focused()));
    viewer.addHandler("tile-load-failed", () => this.tileFailed());
    return new Promise((done) => {
      viewer.addHandler("open", () => {
        if (this.slide) this.addOverlay();
        this.drawHead();
        this.moved();
        done();
      });
      viewer.addHandler("open-failed", (event) => {
        this.notice(t("slide_failed", { why: event.message }), "danger");
        done();
      });
      viewer.open(source);
    });
  }

  picture() {
    const picture = this.pictures.indexOf(this.head);
    const found = picture >= 0 ? picture : this.pictures.length > 0 ? 0 : -1;
    return found < 0 ? null : pictureSource(this.name, found);
  }

  addOverlay() {
    this.overlay = new Overlay(this.viewer);
    this.overlay.size = this.slide.size_px;
    this.overlay.origin = this.slide.origin_px;
    this.applySettings();
  }

  async tileFailed() {
    this.failed += 1;
    if (this.failed > 1) return;
    let now = null;
    try {
      now = await getJson(resultPath(this.name, "slide"));
    } catch (error) {
      if (error.status === 404) {
        this.notice(t("slide_gone"), "danger");
        return;
      }
    }
    if (now && now.identity !== this.slide?.identity) this.notice(t("slide_changed_now"), "danger");
    else this.notice(t("tiles_failed"), "warning");
  }

  prediction() {
    return this.predictions.find((one) => one.head === this.head);
  }

  setHead(head) {
    const before = this.head;
    this.head = head;
    this.about = null;
    if (!this.slide && this.viewer && before !== head && this.pictures.includes(head)) {
      this.viewer.open(this.picture());
    }
    this.drawHead();
  }

  /** The classes that the head has attention for, the called one first; none if it is for no class
   * in particular. */
  classes() {
    const { classes, probabilities, called } = this.prediction();
    const others = classes.filter((name) => this.layer?.column(this.head, "percentile", name));
    if (others.length === 0) return [];
    const among = called.length ? called : [...classes.keys()];
    const own = among.reduce((a, b) => (probabilities[b] > probabilities[a] ? b : a));
    return [classes[own], ...others];
  }

  /** Show the head's attention for the class `about`. */
  setClass(about) {
    const [called, ...others] = this.classes();
    this.about = others.includes(about) && about !== called ? about : null;
    this.drawHead();
  }

  /** What is measured of each tile: value "percentile" or "weight", for the class chosen. */
  column(value) {
    return this.layer?.column(this.head, value, this.about) ?? null;
  }

  /** Colour the tiles by the head and value chosen, and say what the colours are. */
  drawHead() {
    const { overlay, layer } = this;
    const { value, colours } = this.settings;
    this.values = this.column(value);
    if (overlay) {
      overlay.layer = layer;
      overlay.raster = null;
      if (this.values) {
        let most = 100;
        if (value === "weight") most = this.values.reduce((a, b) => Math.max(a, b), 0) || 1;
        this.most = most;
        overlay.raster = layer.raster(this.values, (one) => Math.min(1, Math.max(0, one / most)),
          colours);
        const beyond = layer.size.some((side, axis) =>
          side + overlay.origin[axis] > this.slide.size_px[axis] + 1);
        if (beyond && !this.beyond) {
          this.beyond = true;
          this.notice(t("tiles_outside"), "danger");
        }
      }
      overlay.refresh();
    }
    this.drawLegend();
    this.readTile(this.focused());
  }

  /** The layer's tile that is marked; -1 if none is. */
  focused() {
    return this.overlay?.focus?.tile ?? -1;
  }

  /** The place of a tile of the layer, with what its picture says. */
  placeOfTile(tile, label, short) {
    return { x: this.layer.xy[2 * tile], y: this.layer.xy[2 * tile + 1], tile, label, short };
  }

  /** The place of the tile whose level-0 corner on the slide's canvas is `xy`. */
  placeOf(xy, label, short) {
    const [x, y] = xy.map((value, axis) => value - (this.slide?.origin_px[axis] ?? 0));
    const tile = this.layer?.columns.size ? this.layer.at(x + 1, y + 1,
      this.layer.columns.values().next().value) : -1;
    return { x, y, tile, label, short };
  }

  /** Level-0 pixels that a tile is wide. */
  tileSpan() {
    const { tiles, slide } = this.report.provenance;
    return this.layer?.span ?? tiles.tile_px * tiles.mpp / slide.mpp;
  }

  /** Micrometres a level-0 pixel: those that the report was made with, if it says them. */
  mpp() {
    return this.report.provenance.slide?.mpp ?? super.mpp();
  }

  drawLegend() {
    const shown = this.values && this.overlay;
    this.legend.hidden = !this.slide;
    const line = el("canvas", { width: 256, height: 1, class: "colours", "aria-hidden": "true" });
    const context = line.getContext("2d");
    this.settings.colours.forEach(([r, g, b], at) => {
      context.fillStyle = `rgb(${r} ${g} ${b})`;
      context.fillRect(at, 0, 1, 1);
    });
    const most = this.settings.value === "weight" && shown ? this.most.toPrecision(2) : "100";
    this.legend.replaceChildren(el("span", {}, this.legendText()),
      ...(shown ? [el("span", { class: "legend-line" }, "0", line, most)] : []));
  }

  legendText() {
    if (!this.values) return t(this.layer ? "no_attention" : "no_layer");
    const [called] = this.classes();
    const head = called === undefined ? this.head
      : t("head_for_class", { head: this.head, about: word(this.about ?? called) });
    return t(this.settings.value === "weight" ? "legend_weight" : "legend_percentile", { head });
  }

  caption() {
    const prediction = this.prediction();
    const stated = statedClass(prediction);
    const answer = `${this.report.slide} · ${prediction.gene ?? prediction.head}: ${
      callText(prediction)}`;
    if (isWithheld(prediction)) return answer;
    return `${answer} (${
      t("probability_of", { name: word(prediction.classes[stated]) })} ${
      probability(prediction.probabilities[stated])})`;
  }

  applySettings() {
    if (!this.overlay) return;
    this.overlay.opacity = this.settings.opacity;
    this.overlay.outlines = this.settings.outlines;
    this.overlay.refresh();
  }

  async setTissue(on) {
    if (!this.overlay) return;
    if (on && !this.tissue) {
      try {
        const path = `${resultPath(this.name, "tissue")}?v=${encodeURIComponent(this.slide.identity)}`;
        const answer = await fetch(path);
        if (!answer.ok) throw new Error(await answer.text());
        const picture = await createImageBitmap(await answer.blob());
        const downsample = Number(answer.headers.get("X-Downsample"));
        this.tissue = { picture, width: picture.width * downsample,
          height: picture.height * downsample };
      } catch (error) {
        this.notice(t("tissue_failed", { why: error.message }), "warning");
        return;
      }
    }
    this.overlay.tissue = on ? this.tissue : null;
    this.overlay.refresh();
  }

  /** Shade the tiles that checks of quality flag; those that heads did not see all the more. */
  async setFlaws(on) {
    if (!this.overlay) return;
    if (on && this.flawed && !this.flaws) {
      try {
        const { xy, span, tiles, columns } = new Layer(
          await getBuffer(resultPath(this.name, "flaws")));
        const [told, leftOut] = [new Path2D(), new Path2D()];
        const unseen = columns.get("left out");
        for (let tile = 0; tile < tiles; tile += 1) {
          (unseen?.[tile] ? leftOut : told).rect(xy[2 * tile], xy[2 * tile + 1], span, span);
        }
        this.flaws = { told, leftOut };
      } catch (error) {
        this.notice(error.message, "warning");
        return;
      }
    }
    this.overlay.flaws = on ? this.flaws ?? null : null;
    this.overlay.refresh();
  }

  read(event) {
    if (!this.overlay || !this.values || event.buttons !== 0) return;
    const box = this.viewer.canvas.getBoundingClientRect();
    const point = new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top);
    const place = this.viewer.world.getItemAt(0)?.viewerElementToImageCoordinates(point);
    if (!place) return;
    const [x, y] = this.overlay.origin;
    this.readTile(this.layer.at(place.x - x, place.y - y, this.values));
  }

  readTile(tile) {
    if (tile < 0 || !this.layer || !this.values) {
      this.readout.textContent = "";
      return;
    }
    const rank = this.column("percentile");
    const weight = this.column("weight");
    this.readout.textContent = t("readout", { rank: rank ? number(rank[tile], 1, 1) : "–",
      weight: weight ? weight[tile].toPrecision(3) : "–", x: number(this.layer.xy[2 * tile]),
      y: number(this.layer.xy[2 * tile + 1]) });
  }

  /** The address of a picture of a tile; null without a slide. */
  tileAddress(place, px) {
    if (!this.slide) return null;
    const [x, y] = this.slide.origin_px;
    const query = new URLSearchParams({ x: place.x + x, y: place.y + y,
      span: Math.round(this.tileSpan()), px, v: this.slide.identity });
    return `${resultPath(this.name, "region")}?${query}`;
  }

  /** Move to a tile, three tiles wide, and mark it. */
  fly(place) {
    if (!this.overlay) return;
    this.page.activate(this);
    const span = this.tileSpan();
    const [x, y] = this.slide.origin_px;
    const item = this.viewer.world.getItemAt(0);
    this.overlay.focus = { ...place, span };
    this.viewer.viewport.fitBounds(item.imageToViewportRectangle(place.x + x - span,
      place.y + y - span, 3 * span, 3 * span));
    this.readTile(place.tile);
    this.overlay.refresh();
  }

  close() {
    this.closed = true;
    this.overlay?.close();
    super.close();
    this.element.remove();
    this.notices.remove();
  }
}
