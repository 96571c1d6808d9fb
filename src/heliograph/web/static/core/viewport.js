/* Which rows of a long list are in view, when rows have different heights.

   The view hangs on an anchor: a row, and how many pixels of it are above the upper edge. Heights are
   asked for only near the anchor, so a list of millions costs what a screen of it costs. The scroll bar
   is a map of the whole: up to MAX_HEIGHT it has the list's true length, beyond that it is a scale (a
   browser can't lay out more than some 30 million pixels). Small scrolls move the anchor by pixels, jumps
   of the scroll bar move it by proportion. No DOM here. */

export const MAX_HEIGHT = 8_000_000;

/**
 * Normalise an anchor and find the rows in view.
 *
 * @param {{index: number, offset: number}} anchor `offset` may be any number: moving by d pixels is
 *   adding d to it
 * @param {number} count rows in the list, at least 1
 * @param {number} height of the view in pixels
 * @param {(index: number) => number} heightOf height of a row in pixels, above 0
 * @returns {{index: number, offset: number, last: number, atStart: boolean, atEnd: boolean}} the first row
 *   in view, pixels of it above the edge, and the last row in view
 */
export function layout(anchor, count, height, heightOf) {
  let { index, offset } = anchor;
  if (index >= count) [index, offset] = [count - 1, Infinity];
  const up = () => {
    while (offset < 0 && index > 0) offset += heightOf(--index);
    offset = Math.max(0, offset);
  };
  up();
  while (index < count - 1 && offset >= heightOf(index)) offset -= heightOf(index++);
  offset = Math.min(offset, heightOf(index));
  let last = index;
  let bottom = heightOf(index) - offset;
  while (bottom < height && last < count - 1) bottom += heightOf(++last);
  if (bottom < height) {
    // Past the end: the last row comes down to the lower edge, as far as there are rows above.
    offset -= height - bottom;
    up();
  }
  const atEnd = last === count - 1 && bottom <= height + 1;
  return { index, offset, last, atStart: index === 0 && offset === 0, atEnd };
}

/** The anchor that shows the end of a list. */
export function endOf(count) {
  return { index: count - 1, offset: Infinity };
}

/** Height of the scroll bar's track for a list of `total` rows. */
export function trackHeight(total, rowHeight, height) {
  return Math.max(height, Math.min(MAX_HEIGHT, total * rowHeight));
}

/**
 * Where the scroll bar stands for a position.
 *
 * @param {number} position rows above the view, with a fraction
 * @param {number} inView rows in view
 * @param {number} total rows in the list
 * @param {number} range the scroll bar's largest value
 */
export function scrollTop(position, inView, total, range) {
  const hidden = total - inView;
  return hidden <= 0 ? 0 : Math.min(1, Math.max(0, position / hidden)) * range;
}

/** The row that a jump of the scroll bar asks for: the inverse of `scrollTop`. */
export function rowAt(top, inView, total, range) {
  if (range <= 0) return 0;
  return Math.round(Math.min(1, Math.max(0, top / range)) * Math.max(0, total - inView));
}
