/** What is drawn over a slide: attention, flawed tiles, tile outlines, the tissue mask, the tile in
 * focus. */

const OUTLINES_FROM_PX = 12;
const MAX_OUTLINES = 20_000;

export class Overlay {
  /** `viewer`: OpenSeadragon's, open. Drawn with each of its frames, in the same one. */
  constructor(viewer) {
    this.viewer = viewer;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "overlay";
    this.canvas.setAttribute("aria-hidden", "true");
    viewer.canvas.append(this.canvas);
    this.opacity = 0.5;
    this.outlines = false;
    this.layer = null;
    this.origin = [0, 0];
    this.size = null;
    this.raster = null;
    this.tissue = null;
    this.flaws = null;
    this.focus = null;
    this.redraw = () => this.draw();
    viewer.addHandler("update-viewport", this.redraw);
  }

  /** Draw on the next frame, also if nothing moves. */
  refresh() {
    this.viewer.forceRedraw();
  }

  close() {
    this.viewer.removeHandler("update-viewport", this.redraw);
    this.canvas.remove();
  }

  /** From level-0 pixels to those of a canvas `scale` times as large as the page's. */
  transform(scale) {
    const item = this.viewer.world.getItemAt(0);
    const at = (x, y) => item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
    const unit = 1000;
    const [zero, right, down] = [at(0, 0), at(unit, 0), at(0, unit)];
    return [right.x - zero.x, right.y - zero.y, down.x - zero.x, down.y - zero.y]
      .map((value) => value * scale / unit).concat([zero.x * scale, zero.y * scale]);
  }

  draw() {
    const scale = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.viewer.canvas;
    const [width, height] = [Math.round(clientWidth * scale), Math.round(clientHeight * scale)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height });
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (this.viewer.world.getItemCount() > 0) this.paint(context, scale);
  }

  /** Paint over a canvas that has the slide's pixels at `scale`. */
  paint(context, scale) {
    const matrix = this.transform(scale);
    const zoom = Math.hypot(matrix[0], matrix[1]);
    context.setTransform(...matrix);
    if (this.size) {
      context.beginPath();
      context.rect(0, 0, ...this.size);
      context.save();
      context.clip();
    }
    if (this.tissue) {
      context.globalAlpha = 0.72;
      context.imageSmoothingEnabled = false;
      context.drawImage(this.tissue.picture, 0, 0, this.tissue.width, this.tissue.height);
    }
    context.translate(...this.origin);
    if (this.raster && this.opacity > 0) {
      const { canvas, width, height } = this.raster;
      context.globalAlpha = this.opacity;
      context.imageSmoothingEnabled = zoom * width / canvas.width < 1;
      context.drawImage(canvas, 0, 0, width, height);
    }
    if (this.flaws) {
      context.fillStyle = "#c2185b";
      for (const [path, alpha] of [[this.flaws.told, 0.3], [this.flaws.leftOut, 0.7]]) {
        context.globalAlpha = alpha;
        context.fill(path);
      }
    }
    context.globalAlpha = 1;
    if (this.layer || this.focus) this.lines(context, zoom, scale);
    if (this.size) context.restore();
  }

  lines(context, zoom, scale) {
    const { span, xy } = this.layer ?? this.focus;
    if (this.layer && this.outlines && span * zoom >= OUTLINES_FROM_PX * scale) {
      const [left, top, right, bottom] = this.visible();
      context.beginPath();
      let count = 0;
      for (const tile of this.layer.within(left - span, top - span, right, bottom)) {
        context.rect(xy[2 * tile], xy[2 * tile + 1], span, span);
        count += 1;
        if (count >= MAX_OUTLINES) break;
      }
      context.strokeStyle = "#10131a";
      context.lineWidth = scale / zoom;
      context.stroke();
    }
    if (this.focus) {
      for (const [colour, width] of [["#ffffff", 6], ["#10131a", 3]]) {
        context.strokeStyle = colour;
        context.lineWidth = width * scale / zoom;
        context.strokeRect(this.focus.x, this.focus.y, this.focus.span, this.focus.span);
      }
    }
  }

  /** The rectangle of the layer's pixels that can be seen (of a turned view, one around it). */
  visible() {
    const item = this.viewer.world.getItemAt(0);
    const { clientWidth: width, clientHeight: height } = this.viewer.canvas;
    const corners = [[0, 0], [width, 0], [0, height], [width, height]].map(([x, y]) =>
      item.viewerElementToImageCoordinates(new OpenSeadragon.Point(x, y)));
    const xs = corners.map((point) => point.x - this.origin[0]);
    const ys = corners.map((point) => point.y - this.origin[1]);
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  }
}
