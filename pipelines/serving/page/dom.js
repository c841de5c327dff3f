// Building and finding elements.

/** Find an element that the page is known to have. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element: make("p.soft.wide", { title: "..." }, child, [more, children], "text").
 * A property that elements of the kind lack, such as aria-label, becomes an attribute.
 */
export function make(what, ...parts) {
  const [tag, ...classes] = what.split(".");
  const node = document.createElement(tag);
  node.classList.add(...classes);
  if (tag === "button") node.type = "button";
  for (const part of parts) {
    if (Array.isArray(part)) node.append(...part);
    else if (part instanceof Node || typeof part === "string") node.append(part);
    else for (const name in part) name in node ? (node[name] = part[name]) : node.setAttribute(name, part[name]);
  }
  return node;
}

/** A text that only screen readers read. */
export const spoken = (text) => make("span.hidden", text);

/** Show a short message that goes by itself. */
export function toast(text) {
  const place = byId("toast");
  place.textContent = text;
  place.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (place.hidden = true), 3500);
}
