/** The line above a pane: which slide, which head; in the second pane both can be chosen. */
import { choice, el } from "./dom.js";
import { callText } from "./predictions.js";
import { t } from "./texts.js";

export function fillPaneTitle(pane, page) {
  if (page.panes.length < 2 || !pane.report) {
    pane.title.replaceChildren();
    return;
  }
  const second = pane === page.panes[1];
  const slide = second
    ? choice(t("choose_slide"), page.others.map((one) => [one.name, one.slide]), pane.name,
      (name) => page.compare(name, pane.head), { class: "choose-slide" })
    : el("b", {}, pane.report.slide);
  const heads = pane.predictions.map((one) =>
    [one.head, `${one.gene ?? one.head}: ${callText(one)}`]);
  pane.title.replaceChildren(slide, choice(t("choose_head"), heads, pane.head,
    (head) => page.setHead(pane, head), { class: "choose-head" }));
}
