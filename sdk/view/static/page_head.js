/** The head that every page has. */
import { choice, el } from "./dom.js";
import { currentLanguage, languages, t } from "./texts.js";

/** `parts` and, at the end, the choice of language. */
export function pageHead(context, ...parts) {
  return el("header", { class: "page-head" }, ...parts,
    choice(t("common.language"), languages(), currentLanguage(), context.changeLanguage,
      { class: "language" }));
}
