/* Styles of terminal text: what the sequences that end in `m` (SGR) say.

   A style is null or an object with any of `fg`, `bg` (0–15, or a CSS colour), `bold`, `dim`, `italic`,
   `underline`, `inverse`, `strike`. The sixteen colours are the style sheet's, which has them readable on its
   ground; a colour of the 256 or of 16 million is made lighter here until it is. No DOM here. */

const FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike" };
const ENDS = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 29: ["strike"], 39: ["fg"], 49: ["bg"] };
const LEAST_CONTRAST = 4.5;
const GROUND = luminance([11, 14, 19]); // of the terminal, in both themes

/** The style after a sequence's parameters, such as "1;31". */
export function restyle(style, parameters) {
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
      if (colour != null) next[code === 38 ? "fg" : "bg"] = typeof colour === "number" ? colour : css(colour, code === 38);
      i += used;
    }
  }
  return Object.keys(next).length ? next : null;
}

/** Whether two styles look the same. */
export function sameStyle(a, b) {
  return a === b || (a !== null && b !== null && JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort()));
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
  return parts.every((part) => part >= 0 && part <= 255) ? parts : null;
}

function css(parts, readable) {
  let shown = parts;
  // Towards white by a tenth of the way at a time.
  for (let i = 0; readable && i < 20 && contrast(shown) < LEAST_CONTRAST; i++) shown = shown.map((part) => part + (255 - part) / 10);
  return `rgb(${shown.map(Math.round).join(" ")})`;
}

function contrast(parts) {
  return (luminance(parts) + 0.05) / (GROUND + 0.05);
}

/* Relative luminance (WCAG 2). */
function luminance(parts) {
  const [r, g, b] = parts.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
