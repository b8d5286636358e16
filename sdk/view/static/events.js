/** What the server tells while the page is open. */

const listeners = new Map();
const last = new Map();

/** Call `listener` with each event of `kind`, and with the last of a scan's that there was; returns
 * what stops that. */
export function listen(kind, listener) {
  if (!listeners.has(kind)) listeners.set(kind, new Set());
  if (last.has(kind)) listener(last.get(kind));
  listeners.get(kind).add(listener);
  return () => listeners.get(kind).delete(listener);
}

export function startEvents() {
  const source = new EventSource("/api/events");
  // What happened before, or while the connection was lost, is asked for.
  source.addEventListener("open", () => {
    for (const listener of listeners.get("open") ?? []) listener();
  });
  for (const kind of ["results", "scan", "progress"]) {
    source.addEventListener(kind, (event) => {
      const document = JSON.parse(event.data);
      if (kind !== "results") last.set(kind, document);
      for (const listener of listeners.get(kind) ?? []) listener(document);
    });
  }
}
