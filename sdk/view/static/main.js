/** The page: which part of it the address names, and the language. */
import { getJson } from "./api.js";
import { el } from "./dom.js";
import { startEvents } from "./events.js";
import { parseAddress } from "./address.js";
import { ResultsPage } from "./results_page.js";
import { ScanPage } from "./scan_page.js";
import { SlidePage } from "./slide_page.js";
import { setLanguage, startTexts, t } from "./texts.js";

const host = document.getElementById("page");
let facts = null;
let page = null;
let shown = null;

/** Show what the address names. `anew`: also if it is the same page, as in another language. */
function route(anew = false) {
  const address = parseAddress(location.hash);
  const what = JSON.stringify([address.name, address.with]);
  if (!anew && what === shown) {
    page.goTo?.(address);
    return;
  }
  shown = what;
  page?.close();
  host.replaceChildren();
  const context = { facts, changeLanguage };
  if (location.hash === "#/scan") page = new ScanPage(host, context);
  else if (address.name === null) page = new ResultsPage(host, context);
  else page = new SlidePage(host, context, address);
}

function changeLanguage(language) {
  setLanguage(language);
  route(true);
}

async function start() {
  try {
    facts = await getJson("/api/page");
  } catch (error) {
    host.append(el("p", { class: "notice danger" }, String(error.message)));
    return;
  }
  startTexts(facts.texts, facts.language);
  document.title = t("title");
  addEventListener("hashchange", () => route());
  route();
  startEvents();
}

start();
