/* A JSON value as a tree that unfolds: children are made when they are first shown. */

import { h } from "./dom.js";

const MANY = 200; // children shown at once
const LONG = 600; // characters of a text shown at first

/**
 * Make the tree of a value.
 *
 * @param {string} name of the value; null for none
 * @param {*} value
 * @param {boolean} open whether it is unfolded
 */
export function tree(name, value, open = false) {
  const label = name === null ? [] : [h("b", {}, name), ": "];
  if (value === null || typeof value !== "object") return h("div.leaf", {}, ...label, ...leaf(value));
  const entries = Object.entries(value);
  if (!entries.length) return h("div.leaf", {}, ...label, Array.isArray(value) ? "[]" : "{}");
  const node = h("details.branch", {}, h("summary", {}, ...label, h("i", {}, sizeOf(value, entries))));
  const children = h("div.children");
  node.append(children);
  const grow = () => {
    if (children.firstChild) return;
    more(children, entries, 0);
  };
  node.addEventListener("toggle", () => node.open && grow());
  if (open) {
    grow();
    node.open = true;
  }
  return node;
}

function more(children, entries, from) {
  children.append(...entries.slice(from, from + MANY).map(([key, value]) => tree(key, value)));
  const rest = entries.length - from - MANY;
  if (rest <= 0) return;
  const button = h("button.rest", {}, `${rest} more`);
  button.addEventListener("click", () => {
    button.remove();
    more(children, entries, from + MANY);
  });
  children.append(button);
}

function leaf(value) {
  if (typeof value !== "string") return [h(`span.${value === null ? "null" : typeof value}`, {}, String(value))];
  const text = h("span.string", {}, value.slice(0, LONG));
  if (value.length <= LONG) return [text];
  const button = h("button.rest", {}, `+ ${value.length - LONG} characters`);
  button.addEventListener("click", () => {
    text.textContent = value;
    button.remove();
  });
  return [text, button];
}

function sizeOf(value, entries) {
  return Array.isArray(value) ? `[${entries.length}]` : `{${entries.length}} ${entries.slice(0, 4).map(([key]) => key).join(", ")}`;
}
