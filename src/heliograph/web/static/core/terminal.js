/* What a terminal would show of a text.

   Programs write for a terminal: colours, links, and moves of the cursor over what they wrote before. A carriage
   return or a backspace moves and erases nothing; what is written then replaces what is there, column by column
   (a wide character has two); only an erase erases. Here that is played on a small screen of its own: as many
   lines as the text has, no window, no scrolling. Moves to a place in the window mean nothing without one and are
   dropped, as every other control is. Text stays text: nothing here makes markup. No DOM here. */

import { restyle, sameStyle } from "./colours.js";

const TOKEN = new RegExp(
  [
    "\\x1b\\[([0-?]*)[ -/]*([@-~])", // CSI: parameters and command
    "\\x1b\\]8;[^;\\x07\\x1b]*;([^\\x07\\x1b]*)(?:\\x07|\\x1b\\\\)", // OSC 8: a link, or its end
    "\\x1b\\[[0-?]*[ -/]*$", // CSI that is cut off
    "\\x1b[\\]PX^_][^\\x07\\x1b]*(?:\\x07|\\x1b\\\\|$)", // other strings, up to their end
    "\\x1b[ -/]*[0-~]?", // any other escape
    "([\\r\\n\\x08])",
    "[\\x00-\\x07\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]", // lone controls; a tab is text
  ].join("|"),
  "g",
);
const SPECIAL = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/;
const MOVES = /[\r\x08]|\x1b\[[0-?]*[ -/]*[@A-GJKPX]/;
const UPWARDS = /\x1b\[[0-?]*[AF]/;
const STYLING = /\x1b\[([0-9;:]*)m/g;
const SAFE = /^https?:\/\//i;
const ASCII = /^[ -~]*$/;
const WIDE =
  /^[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97f\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1f64f}\u{1f900}-\u{1f9ff}\u{20000}-\u{3fffd}]|^\p{Emoji_Presentation}|\ufe0f/u;
const MAX_COLUMN = 4_000; // that the cursor may be sent to
const TAB = 8;

const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/**
 * Split a text into spans of one look each.
 *
 * @param {string} text as the program wrote it
 * @param {object|null} style in force where it begins (see colours.js)
 * @param {number} maxSpans further changes of look are ignored, so a hostile line stays cheap
 * @returns {{text: string, style: object|null, link: string|null}[]}
 */
export function parse(text, style = null, maxSpans = 400) {
  if (!SPECIAL.test(text)) return text ? [{ text, style, link: null }] : [];
  const spans = MOVES.test(text) ? screen(text, style).spans() : flow(text, style);
  if (spans.length <= maxSpans) return spans;
  const rest = spans.slice(maxSpans).map((span) => span.text).join("");
  return [...spans.slice(0, maxSpans), { ...spans[maxSpans], text: rest }];
}

/** The text that is left on a terminal. */
export function plain(text) {
  return SPECIAL.test(text) ? parse(text).map((span) => span.text).join("") : text;
}

/** The style in force behind a text. */
export function carry(text, style) {
  if (!text.includes("\x1b[")) return style;
  for (const [, parameters] of text.matchAll(STYLING)) style = restyle(style, parameters);
  return style;
}

/** How many lines above its own begin a text writes, and how many lines of it are below where it ends. */
export function reach(text) {
  if (!UPWARDS.test(text)) return { above: 0, below: 0 };
  let [row, top, bottom] = [0, 0, 0];
  for (const [, parameters, command, , control] of text.matchAll(TOKEN)) {
    if (control === "\n") row += 1;
    else if (command === "A" || command === "F") row -= amount(parameters);
    else if (command === "B" || command === "E") row = Math.min(Math.max(bottom, row), row + amount(parameters));
    top = Math.min(top, row);
    bottom = Math.max(bottom, row);
  }
  return { above: -top, below: bottom - row };
}

/**
 * The first so many characters of spans, as a reader counts them; none is cut through.
 *
 * @returns {{spans: object[], rest: number}} and how many were left out
 */
export function clip(spans, most) {
  const kept = [];
  let left = most;
  let rest = 0;
  for (const span of spans) {
    const count = lengthOf(span.text);
    if (count <= left) kept.push(span);
    else if (left > 0) kept.push({ ...span, text: split(span.text).slice(0, left).join("") });
    rest += Math.max(0, count - left);
    left = Math.max(0, left - count);
  }
  return { spans: kept, rest };
}

/** Characters of a text as a reader counts them. */
export function lengthOf(text) {
  return ASCII.test(text) ? text.length : split(text).length;
}

function split(text) {
  return ASCII.test(text) ? [...text] : Array.from(graphemes.segment(text), ({ segment }) => segment);
}

function amount(parameters) {
  return Math.max(1, parseInt(parameters, 10) || 1);
}

function linked(address) {
  return SAFE.test(address) ? address : null;
}

/* A text without moves, which is nearly every one: what comes goes behind what was there. */
function flow(text, style) {
  const spans = [];
  let [from, link] = [0, null];
  const add = (end) => {
    const last = spans[spans.length - 1];
    const more = text.slice(from, end);
    if (!more) return;
    if (last && last.link === link && sameStyle(last.style, style)) last.text += more;
    else spans.push({ text: more, style, link });
  };
  for (const match of text.matchAll(TOKEN)) {
    const [whole, parameters, command, address, control] = match;
    if (control) continue; // a newline is text as well
    add(match.index);
    from = match.index + whole.length;
    if (command === "m") style = restyle(style, parameters);
    else if (address !== undefined) link = linked(address);
  }
  add(text.length);
  return spans;
}

function screen(text, style) {
  const shown = new Screen(style);
  let from = 0;
  for (const match of text.matchAll(TOKEN)) {
    const [whole, parameters, command, address, control] = match;
    shown.write(text.slice(from, match.index));
    from = match.index + whole.length;
    if (control) shown.control(control);
    else if (address !== undefined) shown.link = linked(address);
    else if (command) shown.command(command, parameters);
  }
  shown.write(text.slice(from));
  return shown;
}

class Screen {
  link = null;

  #lines = [[]]; // of cells; the second half of a wide character is null
  #row = 0;
  #column = 0;

  constructor(style) {
    this.style = style;
  }

  write(text) {
    for (const part of split(text)) {
      if (part === "\t") this.#column += TAB - (this.#column % TAB);
      else this.#put(part, WIDE.test(part) ? 2 : 1);
    }
  }

  control(name) {
    if (name === "\n") this.#down(1);
    if (name === "\b") this.#column = Math.max(0, this.#column - 1);
    else this.#column = 0;
  }

  command(name, parameters) {
    const line = this.#lines[this.#row];
    const by = amount(parameters);
    const at = this.#column;
    const mode = parseInt(parameters, 10) || 0;
    if (name === "m") this.style = restyle(this.style, parameters);
    else if (name === "C") this.#column = Math.min(MAX_COLUMN, at + by);
    else if (name === "D") this.#column = Math.max(0, at - by);
    else if (name === "G") this.#column = Math.min(MAX_COLUMN, by - 1);
    else if (name === "A" || name === "F") this.#row = Math.max(0, this.#row - by);
    else if (name === "B" || name === "E") this.#row = Math.min(this.#lines.length - 1, this.#row + by);
    else if (name === "P") line.splice(at, by);
    else if (name === "X") this.#blank(line, at, at + by);
    else if (name === "@" && at < line.length) line.splice(at, 0, ...Array.from({ length: Math.min(by, MAX_COLUMN) }, () => BLANK));
    else if (name === "K" || name === "J") this.#erase(name, mode, line);
    if (name === "E" || name === "F") this.#column = 0;
  }

  spans() {
    const spans = [];
    while (this.#lines.length > 1 && !this.#lines[this.#lines.length - 1].length) this.#lines.pop();
    this.#lines.forEach((line, row) => {
      if (row) extend(spans, "\n", null, null);
      for (let i = 0; i < line.length; i++) {
        const cell = line[i] === undefined ? BLANK : line[i]; // jumped over
        if (cell) extend(spans, cell.text, cell.style, cell.link);
      }
    });
    return spans;
  }

  #put(text, width) {
    const line = this.#lines[this.#row];
    // Half of a wide character that is written over leaves a space.
    if (line[this.#column] === null) line[this.#column - 1] = BLANK;
    if (line[this.#column + width] === null) line[this.#column + width] = BLANK;
    line[this.#column] = { text, style: this.style, link: this.link };
    if (width === 2) line[this.#column + 1] = null;
    this.#column += width;
  }

  #down(by) {
    this.#row += by;
    while (this.#lines.length <= this.#row) this.#lines.push([]);
  }

  #erase(name, mode, line) {
    if (mode === 0) line.length = Math.min(line.length, this.#column);
    else if (mode === 1) this.#blank(line, 0, this.#column + 1);
    else line.length = 0;
    if (name === "J" && mode === 0) this.#lines.length = this.#row + 1;
    if (name === "J" && mode >= 2) for (const other of this.#lines) other.length = 0;
  }

  #blank(line, from, to) {
    for (let i = from; i < Math.min(to, line.length); i++) line[i] = BLANK;
  }
}

const BLANK = { text: " ", style: null, link: null };

function extend(spans, text, style, link) {
  const last = spans[spans.length - 1];
  if (last && last.link === link && sameStyle(last.style, style)) last.text += text;
  else spans.push({ text, style, link });
}
