/* The scroll bar of a long list: a map of the whole, moved by what is drawn and read when the reader moves it. */

import { rowAt, scrollTop, trackHeight } from "../core/viewport.js";

const JUMP = 3; // scrolls of more than so many views are jumps of the scroll bar
const REST_MS = 150; // the scroll bar is set right when it was left alone for so long

export class ScrollBar {
  #range = 0; // its largest value
  #top = 0; // its value
  #scrolledAt = 0;
  #jumpedAt = -Infinity; // a drag of the scroll bar is many jumps, and its last steps are small

  /**
   * @param {Element} scroller
   * @param {Element} canvas what is scrolled, as high as the view and the range
   * @param {object} on
   * @param {(pixels: number) => void} on.moved the reader scrolled by so much
   * @param {(row: (inView: number, total: number) => number|null) => void} on.jumped the reader wants another place:
   *   `row` tells which, null for the end
   * @param {() => void} on.rested the scroll bar may be set right
   */
  constructor(scroller, canvas, on) {
    Object.assign(this, { scroller, canvas, on });
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
  }

  /** The view is so high. */
  resize(height) {
    this.height = height;
    this.canvas.style.height = `${height + this.#range}px`;
  }

  /**
   * Show where the view is. Nothing of the layout is read here: after the rows have changed, that would cost a layout
   * of its own.
   *
   * @param {object} place
   * @param {number} place.position rows above the view, with a fraction
   * @param {number} place.total rows in the list
   * @param {number} place.average height of a row
   * @param {boolean} place.atTop whether nothing is above
   * @param {boolean} place.atEnd whether nothing is below
   * @param {boolean} place.following whether the view hangs on the end
   */
  show({ position, total, average, atTop, atEnd, following }) {
    const resting = performance.now() - this.#scrolledAt > REST_MS;
    const stuck = (this.#top <= 0 && !atTop) || (this.#top >= this.#range - 1 && !atEnd);
    if (!resting && !stuck && !following) return;
    // As long as there is something to scroll to, there is room to scroll.
    const range = atTop && atEnd ? 0 : Math.max(this.height / 4, trackHeight(total, average, this.height) - this.height);
    let top = range;
    if (!atEnd) {
      top = scrollTop(position, this.height / average, total, range);
      top = Math.min(range - 2, Math.max(atTop ? 0 : 2, top));
    }
    this.#move(Math.round(top), Math.round(range));
  }

  /** There is nothing to scroll. */
  clear() {
    this.#move(0, 0);
  }

  #move(top, range) {
    if (range !== this.#range) this.canvas.style.height = `${this.height + range}px`;
    if (range !== this.#range || top !== this.#top) this.scroller.scrollTop = top;
    this.#range = range;
    this.#top = top;
  }

  #scrolled() {
    const top = this.scroller.scrollTop;
    const moved = top - this.#top;
    if (Math.abs(moved) < 1) return; // a browser rounds what it was told
    this.#top = top;
    const now = performance.now();
    const jumping = Math.abs(moved) > JUMP * this.height || now - this.#jumpedAt < REST_MS;
    this.#scrolledAt = now;
    setTimeout(this.on.rested, REST_MS + 10);
    if (!jumping) return this.on.moved(moved);
    this.#jumpedAt = now;
    this.on.jumped((inView, total) => (top >= this.#range - 1 ? null : rowAt(top, inView, total, this.#range)));
  }
}
