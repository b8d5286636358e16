/** How a prediction is shown, in lists and beside slides. */
import { el } from "./dom.js";
import { probability, t, word } from "./texts.js";

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

/** "EGFR mutated 0.98" for a list: the probability of the class that is called, where one is. */
export function callChip(prediction) {
  const { called } = prediction;
  const stated = called.length === 1 ? called[0] : statedClass(prediction);
  const value = probability(prediction.probabilities[stated]);
  return el("span", { class: "call" }, el("b", {}, prediction.gene), " ", callText(prediction),
    el("span", { class: "quiet", title: t("probability_of",
      { name: word(prediction.classes[stated]) }) }, ` ${value}`));
}

/** A line from 0 to 1 with the probability, its interval and the threshold on it. */
export function probabilityScale(prediction) {
  const stated = statedClass(prediction);
  const value = prediction.probabilities[stated];
  const interval = prediction.interval?.[stated] ?? null;
  const threshold = typeof prediction.threshold === "number" ? prediction.threshold : null;
  const parts = [t("probability_of", { name: word(prediction.classes[stated]) }),
    probability(value)];
  if (threshold !== null) parts.push(`${t("common.threshold")} ${threshold.toFixed(2)}`);
  if (interval) parts.push(`${t("common.interval")} ${interval.map(probability).join(" – ")}`);
  const line = el("span", { class: "scale", role: "img", "aria-label": parts.join(", ") });
  if (interval) {
    const range = el("i", { class: "range" });
    range.style.left = `${100 * interval[0]}%`;
    range.style.width = `${100 * (interval[1] - interval[0])}%`;
    line.append(range);
  }
  if (threshold !== null) {
    const tick = el("i", { class: "tick" });
    tick.style.left = `${100 * threshold}%`;
    line.append(tick);
  }
  const dot = el("i", { class: "dot" });
  dot.style.left = `${100 * value}%`;
  line.append(dot);
  return el("span", { class: "scale-box" }, line,
    el("small", { class: "quiet" }, parts.join(" · ")));
}
