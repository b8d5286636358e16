/** Deep links: which slide, which place of it and which head, in the part of the address after #. */

/** {name, head, class, value, opacity, x, y, scale, rotation, with, with_head} of "#/name?head=..."; numbers
 * are null where absent or senseless. x and y are level-0 pixels, scale how many a page's pixel is. */
export function parseAddress(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  let name = null;
  try {
    name = path === "" ? null : decodeURIComponent(path);
  } catch {
    name = path;
  }
  const given = new URLSearchParams(query);
  const finite = (key) => {
    const value = Number.parseFloat(given.get(key) ?? "");
    return Number.isFinite(value) ? value : null;
  };
  return {
    name,
    head: given.get("head"),
    class: given.get("class"),
    value: given.get("value") === "weight" ? "weight" : "percentile",
    opacity: finite("opacity"),
    x: finite("x"),
    y: finite("y"),
    scale: finite("scale"),
    rotation: finite("rotation"),
    with: given.get("with"),
    with_head: given.get("with_head"),
  };
}

/** The link of `address`; what is null is left out. */
export function addressHash({ name, ...rest }) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(rest)) {
    if (value !== null && value !== undefined && !(key === "value" && value === "percentile")) {
      query.set(key, typeof value === "number" ? String(Number(value.toPrecision(6))) : value);
    }
  }
  const text = query.toString();
  return `#/${encodeURIComponent(name)}${text ? `?${text}` : ""}`;
}
