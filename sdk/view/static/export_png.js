/** The view as a picture, with what is needed to read it. */
import { barLength, magnification } from "./scale_bar.js";
import { micrometres, t } from "./texts.js";

const FOOT = 74;
const FONT = '"Noto Sans", "Segoe UI", "Microsoft YaHei", "PingFang SC", "Noto Sans CJK SC", sans-serif';

/** A PNG blob of `pane`: slide, overlay, scale bar, and below which slide and head these are. */
export async function viewAsPng(pane) {
  const { viewer, overlay } = pane;
  const slide = viewer.drawer.canvas;
  const scale = slide.width / viewer.canvas.clientWidth;
  const foot = Math.round(FOOT * scale);
  const canvas = Object.assign(document.createElement("canvas"),
    { width: slide.width, height: slide.height + foot });
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(slide, 0, 0);
  context.save();
  if (overlay) overlay.paint(context, scale);
  context.restore();
  context.setTransform(scale, 0, 0, scale, 0, slide.height);
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width / scale, FOOT);
  context.fillStyle = "#1b1f27";
  context.textBaseline = "top";
  context.font = `600 15px ${FONT}`;
  context.fillText(pane.caption(), 12, 10, canvas.width / scale - 220);
  context.font = `13px ${FONT}`;
  context.fillText(pane.legendText(), 12, 31, canvas.width / scale - 220);
  context.fillText(pane.report.intended_use ?? t("common.research_use"), 12, 51,
    canvas.width / scale - 24);
  const umPerPx = pane.umPerPx();
  if (umPerPx !== null) {
    const { um, px } = barLength(umPerPx);
    const right = canvas.width / scale - 12;
    context.fillRect(right - px, 30, px, 4);
    context.textAlign = "right";
    context.fillText(`${micrometres(um)}   ${magnification(umPerPx)}`, right, 10);
  }
  return new Promise((done, failed) => canvas.toBlob(
    (blob) => (blob ? done(blob) : failed(new Error("no picture"))), "image/png"));
}

/** Let the browser save `blob` under `name`. */
export function save(blob, name) {
  const link = Object.assign(document.createElement("a"),
    { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
