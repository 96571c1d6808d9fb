/* Making and changing elements. */

/** Set a node's text if it differs from what was last set. */
export function put(node, text) {
  if (node.shown !== text) node.textContent = node.shown = text;
}

const SVG = new Set(["svg", "g", "path", "line", "rect", "circle", "text", "polyline", "title", "marker", "defs"]);

/**
 * Make an element.
 *
 * @param {string} name with classes, such as `span.name.num`
 * @param {object} [properties] attributes; `onclick` and the like are listeners, `dataset` an object; what is null,
 *   undefined or false is left out
 * @param {...(Node|string|null)} children
 */
export function h(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  node.handlers = {}; // by type of event
  for (const [key, value] of Object.entries(properties)) {
    if (value == null || value === false) continue;
    if (key.startsWith("on")) {
      node.handlers[key.slice(2)] = value;
      node.addEventListener(key.slice(2), (event) => node.handlers[event.type](event));
    } else if (key === "dataset") Object.assign(node.dataset, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

/** Make a node's children these nodes and texts; nodes that stay are not touched. */
export function fill(node, children) {
  let next = node.firstChild;
  for (const given of children) {
    const child = typeof given === "string" ? document.createTextNode(given) : given;
    if (child === next) next = next.nextSibling;
    else node.insertBefore(child, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

/**
 * Make a node's children what was made anew: those that were there take over its texts, attributes and handlers, so
 * that focus, selection and scrolling stay. A child is the one with the same `data-key`, or else in the same place.
 */
export function renew(node, children) {
  const there = new Map([...node.childNodes].map((child, i) => [keyOf(child, i), child]));
  const taken = children.map((given, i) => {
    const fresh = typeof given === "string" ? document.createTextNode(given) : given;
    const old = there.get(keyOf(fresh, i));
    there.delete(keyOf(fresh, i));
    return old && alike(old, fresh) ? takeOver(old, fresh) : fresh;
  });
  fill(node, taken);
}

function keyOf(node, i) {
  return node.dataset?.key ?? i;
}

function alike(old, fresh) {
  return old.nodeName === fresh.nodeName && Object.keys(old.handlers ?? {}).join() === Object.keys(fresh.handlers ?? {}).join();
}

function takeOver(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return old;
  }
  for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const name of fresh.getAttributeNames()) if (old.getAttribute(name) !== fresh.getAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
  if (old.handlers) Object.assign(old.handlers, fresh.handlers);
  if (old.nodeName === "INPUT") old.checked = fresh.checked;
  renew(old, [...fresh.childNodes]);
  return old;
}

/** Copy a text, and say so on the button for a moment. */
export async function copied(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = label), 1500);
}
