/** What the keys do. */
import { el } from "./dom.js";
import { KEYS } from "./keys.js";
import { t } from "./texts.js";

const NAMES = { ArrowLeft: "← → ↑ ↓" };

export function helpDialog() {
  const before = document.activeElement;
  const rows = KEYS.filter(([, text]) => text !== null).map(([keys, text]) =>
    el("tr", {}, el("td", {}, keys.map((key) => [el("kbd", {}, NAMES[key] ?? key), " "])),
      el("td", {}, t(text))));
  const close = el("button", { type: "button", onclick: () => dialog.close() }, t("close"));
  const dialog = el("dialog", { "aria-labelledby": "help-title", onclose: () => {
    dialog.remove();
    before?.focus?.();
  } }, el("div", { class: "dialog-head" }, el("h2", { id: "help-title" }, t("help_title")), close),
  el("p", {}, t("help_where")), el("table", {}, el("tbody", {}, rows)));
  document.body.append(dialog);
  dialog.showModal();
}
