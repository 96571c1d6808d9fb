/* One row of a log as an element: a line of output, or a change of status. */

import { clock, count, duration } from "../core/format.js";
import { clip, parse, plain } from "../core/terminal.js";
import { h } from "./dom.js";

export const CLIP = 1_200; // characters of a line shown at first
export const CLIP_OPEN = 100_000; // and after a click

const WORDS = ["question", "name", "tool", "tool_name", "model", "step", "message", "content"];
const ADDRESS = /\bhttps?:\/\/[^\s<>"'`\u0000-\u0020]+[^\s<>"'`.,;:!?)\]}\u0000-\u0020]/g;

/**
 * Make a row.
 *
 * @param {object} row of `LogLines`
 * @param {object} options
 * @param {number} options.most characters shown
 * @param {string} options.times `clock`, `elapsed` or `off`
 * @param {number} options.begun when the task began (milliseconds), for `elapsed`
 * @param {(seq: number) => string} options.address of a line
 */
export function lineNode(row, { most, times, begun, address }) {
  const node = h(
    "div.line",
    { dataset: { seq: row.seq } },
    h("a.seq", { href: address(row.seq), tabindex: "-1", title: "Link to this line" }, String(row.seq)),
    h("time", { datetime: row.time, title: new Date(row.time).toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" }) }, timeOf(row, times, begun)),
  );
  if (row.status) {
    node.classList.add("mark");
    node.dataset.status = row.status;
    node.append(row.topic ? eventNode(row, most === CLIP_OPEN) : h("span.text", {}, row.status.replace("_", " ")));
    return node;
  }
  if (row.stream === "stderr") node.classList.add("stderr");
  const text = h("span.text");
  const { spans, rest } = clip(parse(row.text, row.style), most);
  for (const span of spans) text.append(...spanNodes(span));
  if (rest > 0) {
    text.append(most < CLIP_OPEN ? h("button.rest", {}, `+ ${count(rest)} characters`) : ` … ${count(rest)} more characters are in the full log`);
  }
  node.append(text);
  return node;
}

/* What an event says in a word, where it says it in one of the usual fields; and all of it, when it was opened. */
function eventNode({ topic, payload }, opened) {
  const word = WORDS.map((field) => payload[field]).find((value) => typeof value === "string");
  const all = opened ? `\n${JSON.stringify(payload, null, 2).slice(0, CLIP_OPEN)}` : "";
  return h("span.text.event", {}, h("b", {}, topic), word ? ` ${plain(word).slice(0, 300)}` : "", opened ? all : h("button.rest", {}, "all of it"));
}

function timeOf(row, times, begun) {
  if (times === "off") return "";
  return times === "elapsed" ? `+${duration(Date.parse(row.time) - begun)}` : clock(row.time);
}

function spanNodes(span) {
  const nodes = span.link ? [link(span.link, span.text)] : addresses(span.text);
  return span.style ? [styled(nodes, span.style)] : nodes;
}

function addresses(text) {
  if (!text.includes("://")) return [text];
  const nodes = [];
  let from = 0;
  for (const { 0: address, index } of text.matchAll(ADDRESS)) {
    nodes.push(text.slice(from, index), link(address, address));
    from = index + address.length;
  }
  return [...nodes, text.slice(from)];
}

function link(address, text) {
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow", title: address, tabindex: "-1" }, text);
}

/* The 16 terminal colours are classes, so that the style sheet says what they look like; others are given. */
function styled(nodes, style) {
  const span = h("span", {}, ...nodes);
  const { fg, bg } = style.inverse ? { fg: style.bg ?? "page", bg: style.fg ?? "text" } : style;
  if (typeof fg === "string" && fg !== "page") span.style.color = fg;
  else if (fg !== undefined) span.classList.add(`fg-${fg}`);
  if (typeof bg === "string" && bg !== "text") span.style.backgroundColor = bg;
  else if (bg !== undefined) span.classList.add(`bg-${bg}`);
  for (const flag of ["bold", "dim", "italic", "underline", "strike"]) if (style[flag]) span.classList.add(flag);
  return span;
}
