/** How a prediction is shown, in lists and beside slides. */
import { el } from "./dom.js";
import { hasText, probability, t, word } from "./texts.js";

/** The class whose probability is stated: of two the last (which the threshold is on), of more the
 * likeliest. */
export function statedClass(prediction) {
  const { probabilities } = prediction;
  if (probabilities.length === 2) return 1;
  return probabilities.indexOf(Math.max(...probabilities));
}

/** Why a result that is not ready is not shown. */
export const whyNot = ({ state, problem, problem_value: value }) =>
  (state === "writing" ? t("state_writing") : t(problem, { value }));

/** Calls may be several classes, joined by ", ". */
export const callText = (prediction) => prediction.call.split(", ").map(word).join(", ");

/** No answer is given: its probability is not to be read as one. */
export const isWithheld = (prediction) => prediction.call === "withheld" && !prediction.called.length;

/** Why there is no answer, or which cut-off decided: texts of codes, of older reports none. */
export const reasonTexts = (prediction) => (prediction.reasons ?? []).map((reason) =>
  hasText(`reasons.${reason.code}`)
    ? t(`reasons.${reason.code}`, Object.fromEntries(Object.entries(reason.figures)
      .map(([name, value]) => [name, Number(value.toPrecision(3))])
      .concat(Object.entries(reason.names))))
    : reason.text);

/** "EGFR mutated 0.98" for a list: the probability of the class that is called, where one is. */
export function callChip(prediction) {
  const { called } = prediction;
  if (isWithheld(prediction)) {
    return el("span", { class: "call" }, el("b", {}, prediction.gene), " ", callText(prediction));
  }
  const stated = called.length === 1 && !prediction.zones ? called[0] : statedClass(prediction);
  const value = probability(prediction.probabilities[stated]);
  return el("span", { class: "call" }, el("b", {}, prediction.gene), " ", callText(prediction),
    el("span", { class: "quiet", title: t("probability_of",
      { name: word(prediction.classes[stated]) }) }, ` ${value}`));
}

/** A line from 0 to 1 with the probability, its interval and the threshold or cut-offs on it, and why
 * the call is what it is; of what is withheld only that. */
export function probabilityScale(prediction) {
  const stated = statedClass(prediction);
  const value = prediction.probabilities[stated];
  const interval = prediction.interval?.[stated] ?? null;
  const why = reasonTexts(prediction).map((text) => el("small", {}, text));
  if (isWithheld(prediction)) return el("span", { class: "scale-box" }, ...why);
  const zones = prediction.zones;
  const ticks = zones ? [zones.rule_out?.value, zones.rule_in?.value] : [prediction.threshold];
  const marks = ticks.filter((value) => typeof value === "number");
  const parts = [t("probability_of", { name: word(prediction.classes[stated]) }),
    probability(value)];
  if (marks.length) {
    parts.push(`${t(zones ? "common.cut_offs" : "common.threshold")} ${
      marks.map((value) => value.toFixed(2)).join(" – ")}`);
  }
  if (interval) parts.push(`${t("common.interval")} ${interval.map(probability).join(" – ")}`);
  const line = el("span", { class: "scale", role: "img", "aria-label": parts.join(", ") });
  if (interval) {
    const range = el("i", { class: "range" });
    range.style.left = `${100 * interval[0]}%`;
    range.style.width = `${100 * (interval[1] - interval[0])}%`;
    line.append(range);
  }
  for (const mark of marks) {
    const tick = el("i", { class: "tick" });
    tick.style.left = `${100 * mark}%`;
    line.append(tick);
  }
  const dot = el("i", { class: "dot" });
  dot.style.left = `${100 * value}%`;
  line.append(dot);
  return el("span", { class: "scale-box" }, line,
    el("small", { class: "quiet" }, parts.join(" · ")), ...why);
}
