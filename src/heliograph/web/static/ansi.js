/* Terminal output as coloured spans.

   Programs write for a terminal: colours (SGR), cursor movements, titles, progress bars that overwrite
   their own line. A log shows what a reader would have been left with: colours are kept, a line that was
   overwritten shows its last state, and every other control is dropped. Text stays text: nothing here
   makes markup. No DOM here. */

const ESCAPE = new RegExp(
  [
    "\\x1b\\[([0-?]*)[ -/]*([@-~]|$)", // CSI: parameters, then the command (if it is not cut off)
    "\\x1b[\\]PX^_][^\\x07\\x1b]*(?:\\x07|\\x1b\\\\|$)", // OSC and other strings, up to their end
    "\\x1b[ -/]*[0-~]?", // any other escape
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f\\x80-\\x9f]", // lone controls; not tab, newline, return
  ].join("|"),
  "g",
);
const SPECIAL = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/;

/**
 * Split a text into spans of one style each.
 *
 * @param {string} text as the program wrote it
 * @param {number} maxSpans further changes of style are ignored, so a hostile line stays cheap
 * @returns {{text: string, style: object|null}[]} `style` has any of `fg`, `bg` (0–15, or a CSS colour),
 *   `bold`, `dim`, `italic`, `underline`, `inverse`, `strike`
 */
export function parse(text, maxSpans = 200) {
  if (!SPECIAL.test(text)) return [{ text, style: null }];
  text = overwrite(text);
  const spans = [];
  let style = null;
  let pending = "";
  let from = 0;
  const flush = () => {
    if (pending) spans.push({ text: pending, style });
    pending = "";
  };
  for (const match of text.matchAll(ESCAPE)) {
    pending += text.slice(from, match.index);
    from = match.index + match[0].length;
    if (match[2] === "m" && spans.length < maxSpans) {
      flush();
      style = restyle(style, match[1]);
    }
  }
  pending += text.slice(from);
  flush();
  return spans;
}

/** The text without any control sequence. */
export function plain(text) {
  return SPECIAL.test(text) ? overwrite(text).replace(ESCAPE, "") : text;
}

/* A carriage return goes back to the start of the line: what follows replaces what was there. */
function overwrite(text) {
  if (!text.includes("\r")) return text;
  return text
    .split("\n")
    .map((line) => {
      const shown = line.replace(/\r+$/, "");
      return shown.slice(shown.lastIndexOf("\r") + 1);
    })
    .join("\n");
}

const FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike" };
const ENDS = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 29: ["strike"], 39: ["fg"], 49: ["bg"] };

function restyle(style, parameters) {
  const next = { ...style };
  const codes = parameters.split(/[;:]/).map(Number);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i];
    if (code === 0) for (const name in next) delete next[name];
    else if (FLAGS[code]) next[FLAGS[code]] = true;
    else if (ENDS[code]) for (const name of ENDS[code]) delete next[name];
    else if (code >= 30 && code <= 37) next.fg = code - 30;
    else if (code >= 40 && code <= 47) next.bg = code - 40;
    else if (code >= 90 && code <= 97) next.fg = code - 90 + 8;
    else if (code >= 100 && code <= 107) next.bg = code - 100 + 8;
    else if (code === 38 || code === 48) {
      const [colour, used] = extended(codes, i + 1);
      if (colour != null) next[code === 38 ? "fg" : "bg"] = colour;
      i += used;
    }
  }
  return Object.keys(next).length ? next : null;
}

/* The two long forms of a colour: 5;n of the 256, and 2;r;g;b. */
function extended(codes, at) {
  if (codes[at] === 5) return [palette(codes[at + 1]), 2];
  if (codes[at] === 2) return [rgb(codes[at + 1], codes[at + 2], codes[at + 3]), 4];
  return [null, 1];
}

function palette(n) {
  if (!(n >= 0 && n <= 255)) return null;
  if (n < 16) return n;
  if (n >= 232) return rgb(...Array(3).fill(8 + 10 * (n - 232)));
  const level = (step) => (step ? 55 + 40 * step : 0);
  return rgb(level(Math.floor((n - 16) / 36)), level(Math.floor((n - 16) / 6) % 6), level((n - 16) % 6));
}

function rgb(...parts) {
  return parts.every((part) => part >= 0 && part <= 255) ? `rgb(${parts.join(" ")})` : null;
}
