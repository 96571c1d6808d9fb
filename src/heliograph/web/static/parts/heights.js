/* How high the rows of a log are: measured a few at a time, around those that are asked for. */

import { h } from "./dom.js";

const BATCH = 24; // rows measured together, on each side
const ONE_COLUMN_EACH = /^[ -~]*$/;

export class Heights {
  /** Of a line that does not wrap. */
  row = 19;
  /** Of the rows that were in view lately. */
  average = 19;
  /** Characters in a line; 0 where that can't be known. */
  columns = 80;

  #generation = 0; // of measurements; a new width begins a new one

  /** @param {(row: object) => Element} nodeOf makes a row */
  constructor(nodeOf) {
    this.nodeOf = nodeOf;
    this.node = h("div.rows.measure", { "aria-hidden": "true" });
  }

  /** Measure anew from here on; `anyway`: also if lines are as wide as before. */
  reset(anyway = false) {
    const probe = this.nodeOf({ seq: 1, end: 1, time: "1970-01-01T00:00:00Z", text: "x", style: null });
    const text = probe.lastElementChild;
    this.node.replaceChildren(probe);
    const row = probe.offsetHeight;
    const range = document.createRange();
    range.selectNodeContents(text);
    const columns = Math.floor(text.clientWidth / range.getBoundingClientRect().width);
    this.node.replaceChildren();
    if (!anyway && columns === this.columns && row === this.row) return;
    Object.assign(this, { row, average: row, columns });
    this.#generation += 1;
  }

  /** The height of one of these rows; lines that are not broken are one line high, however long. */
  of(rows, index, wrap) {
    if (rows[index].measured !== this.#generation) this.#measureAround(rows, index, wrap);
    return rows[index].height;
  }

  /** Rows of these heights were in view. */
  seen(rows) {
    const heights = rows.reduce((sum, { height }) => sum + height, 0);
    this.average += (heights / rows.length - this.average) / 8;
  }

  /* Rows that can't wrap have the height of a line; the others are laid out to see, many at a time. */
  #measureAround(rows, index, wrap) {
    const wrapping = [];
    for (let i = Math.max(0, index - BATCH); i < Math.min(rows.length, index + BATCH); i++) {
      const row = rows[i];
      if (row.measured === this.#generation) continue;
      row.measured = this.#generation;
      row.height = this.row;
      const oneLine = row.text !== undefined && (row.text.length <= this.columns || !wrap) && ONE_COLUMN_EACH.test(row.text);
      if (!oneLine) wrapping.push(row);
    }
    if (!wrapping.length) return;
    const nodes = wrapping.map((row) => this.nodeOf(row));
    this.node.replaceChildren(...nodes);
    wrapping.forEach((row, i) => (row.height = Math.max(1, nodes[i].offsetHeight)));
    this.node.replaceChildren();
  }
}
