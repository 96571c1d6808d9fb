/* What people and models write: paragraphs, blocks and pieces of code, addresses. Nothing of it is markup. */

import { h } from "./dom.js";

const FENCE = /^```[^\n]*\n([\s\S]*?)(?:^```\s*$|(?![\s\S]))/m;
const INLINE = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|(https?:\/\/[^\s<>"'`]+[^\s<>"'`.,;:!?)\]}])/g;

/** The elements of a text. */
export function prose(text) {
  const nodes = [];
  for (let rest = text; rest; ) {
    const fence = FENCE.exec(rest);
    const before = fence ? rest.slice(0, fence.index) : rest;
    for (const paragraph of before.split(/\n{2,}/)) if (paragraph.trim()) nodes.push(h("p", {}, ...inline(paragraph.replace(/^\n+|\n+$/g, ""))));
    if (!fence) break;
    nodes.push(h("pre", { tabindex: "0" }, fence[1].replace(/\n$/, "")));
    rest = rest.slice(fence.index + fence[0].length);
  }
  return nodes;
}

function inline(text) {
  const nodes = [];
  let from = 0;
  for (const { 0: whole, 1: code, 2: strong, 3: address, index } of text.matchAll(INLINE)) {
    nodes.push(text.slice(from, index));
    if (code) nodes.push(h("code", {}, code));
    else if (strong) nodes.push(h("b", {}, strong));
    else nodes.push(h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, address));
    from = index + whole.length;
  }
  return [...nodes, text.slice(from)];
}
