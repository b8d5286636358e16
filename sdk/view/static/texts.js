/** Texts in the language chosen. */

import { el } from "./dom.js";

const KEPT = "pathgene-view-language";
let tables = {};
let language = "en";

/** `texts`: language -> table -> name -> text; `wanted`: the server's choice or "". */
export function startTexts(texts, wanted) {
  tables = texts;
  const kept = localStorage.getItem(KEPT);
  const browser = (navigator.languages ?? []).map((tag) => tag.slice(0, 2).toLowerCase());
  const found = [kept, wanted, ...browser].find((tag) => tag && tag in texts);
  apply(found ?? "en");
}

function apply(chosen) {
  language = chosen;
  document.documentElement.lang = tables[language].html_lang;
}

export function setLanguage(chosen) {
  localStorage.setItem(KEPT, chosen);
  apply(chosen);
}

export const currentLanguage = () => language;
export const languages = () =>
  Object.entries(tables).map(([tag, table]) => [tag, table.common.language_name]);

/** The text of "name" in the page's table or of "table.name", with {values}. */
export function t(key, values = {}) {
  const [table, name] = key.includes(".") ? key.split(".") : ["view", key];
  const text = tables[language][table]?.[name];
  if (text === undefined) throw new Error(`no text ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, value) => String(values[value]));
}

/** A sentence of a report in this language, where `said` (the server's) has it, as an element. */
export function sentence(text, said) {
  const translated = said[text]?.[language];
  return el("span", { lang: translated === undefined ? "en" : null }, translated ?? text);
}

/** Whether there is a text "table.name". */
export function hasText(key) {
  const [table, name] = key.split(".");
  return tables[language][table]?.[name] !== undefined;
}

/** A bundle's word (a class, a call) in this language where it is a usual one. */
export function word(text) {
  return tables[language].words[text.toLowerCase().replaceAll(" ", "_")] ?? text;
}

/** `value` with at most `digits` decimals, with at least `least`. */
export function number(value, digits = 0, least = 0) {
  return new Intl.NumberFormat(language,
    { maximumFractionDigits: digits, minimumFractionDigits: least }).format(value);
}

/** A probability with two digits, which never reads as certain. */
export function probability(value) {
  if (value > 0.995) return ">\u00a00.99";
  if (value < 0.005) return "<\u00a00.01";
  return value.toFixed(2);
}

export function when(iso) {
  const time = new Date(iso);
  if (Number.isNaN(time.valueOf())) return iso;
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(time);
}

/** A length of `um` micrometres. */
export function micrometres(um) {
  return um >= 1000 ? `${number(um / 1000, 2)} mm` : `${number(um, um < 10 ? 1 : 0)} µm`;
}
