/** A slide in OpenSeadragon: where its view is, and how that is moved. */
import { el } from "./dom.js";
import { onKey } from "./keys.js";
import { ScaleBar } from "./scale_bar.js";
import { makeViewer } from "./slide_source.js";

export class SlideView {
  /** `page` is told which view people use, and asked for what keys do. */
  constructor(page) {
    this.page = page;
    this.listeners = new Set();
    this.viewer = null;
    this.slide = null;
    this.stage = el("div", { class: "stage" });
    this.scaleBar = new ScaleBar(this.stage);
  }

  /** The viewer on the stage, called `label` for those who hear the page. */
  makeViewer(label) {
    const viewer = makeViewer(this.stage);
    this.viewer = viewer;
    const { canvas, navigator } = viewer;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", label);
    canvas.setAttribute("aria-keyshortcuts", "?");
    navigator.element.setAttribute("aria-hidden", "true");
    for (const part of [navigator.element, ...navigator.element.querySelectorAll("[tabindex]")]) {
      part.tabIndex = -1;
    }
    viewer.addHandler("canvas-key", (event) => {
      event.preventDefaultAction = true;
      if (onKey(event.originalEvent, this)) event.originalEvent.preventDefault();
    });
    for (const kind of ["canvas-press", "canvas-scroll", "canvas-drag", "canvas-pinch"]) {
      viewer.addHandler(kind, () => this.page.activate(this));
    }
    canvas.addEventListener("focus", () => this.page.activate(this));
    viewer.addHandler("viewport-change", () => this.moved());
    viewer.addHandler("after-resize", () => {
      this.moved();
      this.page.follow();
    });
    return viewer;
  }

  moved() {
    this.scaleBar.update(this.umPerPx());
    for (const listener of this.listeners) listener();
  }

  /** Call `listener` whenever the view moves; returns what stops that. */
  onMove(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Micrometres a level-0 pixel; null if nobody knows. */
  mpp() {
    return this.slide?.mpp ?? null;
  }

  /** Micrometres of a page's pixel; null without slide or scale. */
  umPerPx() {
    const scale = this.pxPerPx();
    const mpp = this.mpp();
    return scale === null || mpp === null ? null : scale * mpp;
  }

  /** Level-0 pixels of a page's pixel; null while there is no slide. */
  pxPerPx() {
    if (!this.slide || !this.viewer?.world.getItemCount()) return null;
    const { viewport } = this.viewer;
    return this.slide.size_px[0] / (viewport.getZoom(true) * viewport.getContainerSize().x);
  }

  /** {px, um, umPerPx, rotation} of the middle of the view; a slide without scale counts pixels. */
  place() {
    const scale = this.pxPerPx();
    if (scale === null) return null;
    const { viewport } = this.viewer;
    const centre = this.viewer.world.getItemAt(0).viewportToImageCoordinates(viewport.getCenter(true));
    const mpp = this.mpp() ?? 1;
    return { px: [centre.x, centre.y], um: [centre.x * mpp, centre.y * mpp], umPerPx: scale * mpp,
      rotation: viewport.getRotation(true) };
  }

  /** At once: to `um`, or `px`, with `umPerPx`, turned by `rotation`. */
  moveTo({ um = null, px = null, umPerPx, rotation }) {
    if (!this.slide || !this.viewer) return;
    const mpp = this.mpp() ?? 1;
    const { viewport } = this.viewer;
    const [x, y] = px ?? um.map((value) => value / mpp);
    const width = this.slide.size_px[0] * mpp;
    viewport.setRotation(rotation, true);
    viewport.zoomTo(width / (umPerPx * viewport.getContainerSize().x), null, true);
    viewport.panTo(this.viewer.world.getItemAt(0).imageToViewportCoordinates(x, y), true);
  }

  pan(right, down) {
    this.page.activate(this);
    const { viewport } = this.viewer;
    const step = viewport.deltaPointsFromPixels(new OpenSeadragon.Point(90 * right, 90 * down));
    viewport.panBy(step);
    viewport.applyConstraints();
  }

  zoom(factor) {
    this.page.activate(this);
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  home() {
    this.page.activate(this);
    this.viewer.viewport.goHome();
  }

  turn(degrees) {
    this.page.activate(this);
    const { viewport } = this.viewer;
    viewport.setRotation(viewport.getRotation() + degrees);
  }

  focus() {
    this.viewer?.canvas.focus({ preventScroll: true });
  }

  close() {
    this.viewer?.destroy();
  }
}
