/** What the server tells while the page is open. */

const listeners = new Map();

/** Call `listener` with each event of `kind`; returns what stops that. */
export function listen(kind, listener) {
  if (!listeners.has(kind)) listeners.set(kind, new Set());
  listeners.get(kind).add(listener);
  return () => listeners.get(kind).delete(listener);
}

export function startEvents() {
  const source = new EventSource("/api/events");
  for (const kind of ["results", "scan"]) {
    source.addEventListener(kind, (event) => {
      const document = JSON.parse(event.data);
      for (const listener of listeners.get(kind) ?? []) listener(document);
    });
  }
}
