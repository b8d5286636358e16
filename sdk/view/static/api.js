/** Asking the server that this page came from; nothing else is ever asked. */

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path) {
  const answer = await fetch(path, { credentials: "same-origin" });
  if (!answer.ok) throw new ApiError(answer.status, (await answer.text()).slice(0, 500));
  return answer;
}

export const getJson = async (path) => (await ask(path)).json();
export const getBuffer = async (path) => (await ask(path)).arrayBuffer();

/** The address of a result's own page, to read and print. */
export function pageAddress({ name, is_case: isCase = false }) {
  const folder = encodeURIComponent(isCase ? name.replace(/^case:/, "") : name);
  return `/pages/${isCase ? "cases/" : ""}${folder}/report.html`;
}

/** The address of what belongs to a result. */
export function resultPath(name, ...parts) {
  return ["/api/results", encodeURIComponent(name), ...parts].join("/");
}
