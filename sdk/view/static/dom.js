/** Building the page. Texts of reports and bundles only ever become text nodes. */

/**
 * An element. `attributes`: properties that begin with "on" are listeners, `class` and others are
 * attributes (true: present, false and null: absent); children are elements, texts or null.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Tell a reader of the screen what happened. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** A select with `options` of [value, text]. */
export function choice(label, options, value, onchange, attributes = {}) {
  const select = el("select", { "aria-label": label, ...attributes,
    onchange: () => onchange(select.value) },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
  select.value = value;
  return select;
}

/** A checkbox in its label. */
export function check(label, checked, onchange, attributes = {}) {
  const box = el("input", { type: "checkbox", ...attributes, onchange: () => onchange(box.checked) });
  box.checked = checked;
  return el("label", { class: "check" }, box, " ", label);
}
