/** A bar of a round length, and the magnification, at the foot of a slide. */
import { el } from "./dom.js";
import { micrometres, number, t } from "./texts.js";

const WIDEST_PX = 160;
const UM_PER_PX_AT_1X = 10;

/** {um, px} of the bar that fits where a page's pixel is `umPerPx`. */
export function barLength(umPerPx) {
  const most = WIDEST_PX * umPerPx;
  const power = 10 ** Math.floor(Math.log10(most));
  const um = [5, 2, 1].map((digit) => digit * power).find((length) => length <= most);
  return { um, px: um / umPerPx };
}

/** "12.5×": a slide of 0.5 µm/px shown pixel by pixel is 20×. */
export const magnification = (umPerPx) =>
  `${number(UM_PER_PX_AT_1X / umPerPx, UM_PER_PX_AT_1X / umPerPx < 10 ? 1 : 0)}×`;

export class ScaleBar {
  constructor(host) {
    this.line = el("span", { class: "bar" });
    this.length = el("span");
    this.power = el("span", { class: "power" });
    this.element = el("div", { class: "scale-bar" }, this.length, this.line, this.power);
    host.append(this.element);
  }

  /** `umPerPx` of a page's pixel, null where the slide's scale is not known. */
  update(umPerPx) {
    if (umPerPx === this.shown) return;
    this.shown = umPerPx;
    this.line.hidden = umPerPx === null;
    if (umPerPx === null) {
      this.length.textContent = t("no_scale");
      this.power.textContent = "";
      return;
    }
    const { um, px } = barLength(umPerPx);
    this.line.style.width = `${px}px`;
    this.length.textContent = micrometres(um);
    this.power.textContent = magnification(umPerPx);
  }
}
