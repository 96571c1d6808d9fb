/* A task's log: the lines in view, and nothing else, as elements.

   `LogLines` keeps the loaded run of lines, `viewport` decides which rows are in view; this module
   fetches and draws. What is read stays where it is: the view hangs on a line's `seq`, not on
   pixels, so lines may come or go on either side. While following, the view hangs on the end instead. */

import { paths } from "../core/api.js";
import { count } from "../core/format.js";
import { LogLines } from "../core/loglines.js";
import { endOf, layout, rowAt, scrollTop, trackHeight } from "../core/viewport.js";
import { h, put } from "./dom.js";
import { Heights } from "./heights.js";
import { CLIP, CLIP_OPEN, lineNode } from "./line.js";

const PAGE_LINES = 500;
const MOST_LINES = 5_000; // that the service gives at once
const PAGE_BYTES = 4_000_000;
const NEAR = 150; // rows from the end of the loaded run at which more is fetched
const JUMP = 3; // scrolls of more than so many views are jumps of the scroll bar
const REST_MS = 150; // the scroll bar is set right when it was left alone for so long
const RETRY_MS = 3_000;

export class Log {
  /** The lines loaded. */
  lines = new LogLines();
  /** How lines are shown: `times` is clock, elapsed or off; `wrap`: whether long lines are broken. */
  shown = { times: "clock", wrap: true };
  /** Of which stream lines are shown; null: of both. Takes effect with `load`. */
  only = null;
  /** What is drawn at the foot: which lines are in view. */
  position = "";

  #asks = 0; // counts questions: an answer to an older one is too late
  #busy = false;
  #blockedUntil = 0;
  #opened = new Set(); // seq of long lines that were opened
  #marked = null; // seq of the line that a link names
  #follow = true;
  #anchor = null; // {seq, offset}
  #target = null; // seq a jump is on its way to
  #nodes = new Map(); // row → node, for the rows in view
  #heights = new Heights((row) => this.#nodeOf(row));
  #height = 0; // of the view
  #range = 0; // largest value of the scroll bar
  #top = 0; // its value
  #scrolledAt = 0;
  #jumpedAt = -Infinity; // a drag of the scroll bar is many jumps, and its last steps are small
  #jumpTimer = null;
  #resizes = new ResizeObserver(() => this.#resized());

  /**
   * @param {Element} root the log's part of the page
   * @param {object} options
   * @param {import("../core/api.js").Api} options.api
   * @param {string} options.id of the task
   * @param {() => object} options.task as far as it is known
   * @param {(seq: number) => string} options.address of a line
   * @param {() => void} options.redraw asks for `draw` in the next frame
   * @param {(problem: Error) => void} options.failed is told of a question without an answer
   */
  constructor(root, { api, id, task, address, redraw, failed }) {
    Object.assign(this, { root, api, id, task, address, redraw, failed });
    this.rows = h("div.rows");
    this.view = h("div.view", {}, this.rows);
    this.canvas = h("div.canvas", {}, this.view);
    this.scroller = h("div.scroller", { tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Output" }, this.canvas);
    this.hint = h("p.hint", {}, "Loading…");
    root.append(this.scroller, this.#heights.node, this.hint);
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.#keyed(event));
    this.rows.addEventListener("click", (event) => this.#openLine(event.target));
    this.#resizes.observe(this.scroller);
  }

  /** The `seq` of the first line in view. */
  get at() {
    return this.#anchor?.seq ?? 1;
  }

  /** Whether the view hangs on the end. */
  get following() {
    return this.#follow;
  }

  /**
   * Load the log, forgetting what is loaded: its end, or what is around a line. The stream must have been
   * started: what comes after the answer's cursor is taken from it.
   *
   * @param {() => Promise<object[]>} events fetches the task's own events, which stand between its lines
   * @param {number|null} seq of a line to show
   */
  async load(events, seq = null) {
    const lines = new LogLines(this.task()?.last_seq, this.only);
    this.lines = lines;
    lines.hold();
    this.#follow = seq === null;
    this.#marked = seq;
    this.#target = null;
    this.#clearRows();
    this.say("Loading…");
    lines.mark(await events());
    if (lines === this.lines) await (seq === null ? this.#askTail() : this.#askFrom(seq));
  }

  /** Go to the first line. */
  oldest() {
    this.#goTo(1);
  }

  /** Show a line, and mark it. */
  go(seq) {
    this.#marked = seq;
    this.#redo();
    this.#goTo(seq);
  }

  /** Change how lines are shown. */
  show(change) {
    Object.assign(this.shown, change);
    this.root.classList.toggle("nowrap", !this.shown.wrap);
    this.root.dataset.times = this.shown.times;
    this.#redo();
    this.#resized(true);
  }

  /** Take one live message of this task; whoever hands it over has it drawn. */
  take(message) {
    this.lines.take(message, this.#follow);
  }

  close() {
    this.#asks += 1;
    clearTimeout(this.#jumpTimer);
    this.#resizes.disconnect();
  }

  /** Say something in place of lines; null shows them again. */
  say(text) {
    this.hint.hidden = text === null;
    if (text !== null) put(this.hint, text);
  }

  /** Hang the view on the end of the log, or leave it where it is. */
  follow(on) {
    this.#follow = on;
    this.#target = null;
    if (on && !this.lines.attached) this.#tryTo(() => this.#askTail());
    this.redraw();
  }

  // --- questions -------------------------------------------------------------------------------

  /* Lines per question: fewer where they are long, more where it takes many pieces to make a line. */
  #pageLines() {
    const task = this.task();
    if (!task?.output_lines) return PAGE_LINES;
    const { rows, first, last } = this.lines;
    const most = rows.length ? Math.min(MOST_LINES, Math.ceil((PAGE_LINES * (last - first + 1)) / rows.length)) : PAGE_LINES;
    return Math.max(20, Math.min(most, Math.floor((PAGE_BYTES * task.output_lines) / (task.output_bytes + 1))));
  }

  /* Ask for lines; the latest question wins. */
  async #ask(query, take) {
    const ask = ++this.#asks;
    this.#busy = true;
    try {
      const answer = await this.api.get(paths.log(this.id), { ...query, stream: this.only });
      if (ask === this.#asks) take(answer);
    } finally {
      if (ask === this.#asks) this.#busy = false;
      this.redraw();
    }
  }

  async #askTail() {
    const n = this.#pageLines();
    this.lines.hold();
    await this.#ask({ tail: n }, (answer) => {
      this.lines.showTail(answer);
      this.#target = null;
    });
  }

  async #askFrom(seq) {
    const n = this.#pageLines();
    const from = Math.max(1, seq - Math.floor(n / 4));
    this.lines.hold();
    await this.#ask({ from_seq: from, limit: n }, (answer) => {
      this.lines.showFrom(from, answer);
      this.#anchor = { seq, offset: 0 };
      this.#target = null;
    });
    if (!this.lines.rows.length) await this.#askTail();
  }

  async #askOlder() {
    const n = this.#pageLines();
    await this.#ask({ to_seq: this.lines.first - 1, tail: n }, (answer) => this.lines.prepend(answer));
  }

  async #askNewer() {
    const n = this.#pageLines();
    this.lines.hold();
    await this.#ask({ from_seq: this.lines.last + 1, limit: n }, (answer) => this.lines.extend(answer));
  }

  async #tryTo(question) {
    try {
      await question();
    } catch (problem) {
      this.#blockedUntil = performance.now() + RETRY_MS;
      setTimeout(this.redraw, RETRY_MS);
      this.failed(problem);
    }
  }

  #fetchAround(first, last) {
    if (this.#busy || this.#target !== null || performance.now() < this.#blockedUntil) return;
    const lines = this.lines;
    if (!lines.attached && last >= lines.rows.length - NEAR) {
      const far = lines.head - lines.last > 4 * PAGE_LINES;
      this.#tryTo(() => (this.#follow && far ? this.#askTail() : this.#askNewer()));
    } else if (!lines.complete && first < NEAR) {
      this.#tryTo(() => this.#askOlder());
    }
  }

  // --- scrolling -------------------------------------------------------------------------------

  #scrolled() {
    const top = this.scroller.scrollTop;
    const moved = top - this.#top;
    if (Math.abs(moved) < 1 || !this.#anchor) return; // a browser rounds what it was told
    this.#top = top;
    const now = performance.now();
    const jumping = Math.abs(moved) > JUMP * this.#height || now - this.#jumpedAt < REST_MS;
    this.#scrolledAt = now;
    setTimeout(this.redraw, REST_MS + 10);
    if (!jumping) {
      if (moved < 0) this.#follow = false;
      this.#anchor.offset += moved;
      this.redraw();
    } else {
      this.#jumpedAt = now;
      if (top >= this.#range - 1) this.follow(true);
      else this.#goTo(1 + rowAt(top, this.#height / this.#heights.average, this.lines.head, this.#range));
    }
  }

  #keyed(event) {
    if (event.key === "Home") this.#goTo(1);
    else if (event.key === "End") this.follow(true);
    else return;
    event.preventDefault();
  }

  /* Show a line at the upper edge, fetching it if need be. */
  #goTo(seq) {
    this.#follow = false;
    const { first, last, complete } = this.lines;
    if ((seq >= first || complete) && seq <= last) {
      this.#target = null;
      this.#anchor = { seq, offset: 0 };
    } else {
      this.#target = seq;
      this.#asks += 1;
      this.#busy = false;
      clearTimeout(this.#jumpTimer);
      this.#jumpTimer = setTimeout(() => this.#target === seq && this.#tryTo(() => this.#askFrom(seq)), 60);
    }
    this.redraw();
  }

  /* Nothing of the layout is read here: after the rows have changed, that would cost a layout of its own. */
  #setScrollBar(place) {
    const { rows, head, complete, attached } = this.lines;
    const atTop = place.atStart && complete;
    const atEnd = place.atEnd && attached;
    const resting = performance.now() - this.#scrolledAt > REST_MS;
    const stuck = (this.#top <= 0 && !atTop) || (this.#top >= this.#range - 1 && !atEnd);
    if (!resting && !stuck && !this.#follow) return;
    const { average } = this.#heights;
    // As long as there is something to scroll to, there is room to scroll.
    const range = atTop && atEnd ? 0 : Math.max(this.#height / 4, trackHeight(head, average, this.#height) - this.#height);
    let top = range;
    if (!atEnd) {
      const { seq, end } = rows[place.index];
      const position = seq - 1 + ((end - seq + 1) * place.offset) / this.#heightOf(place.index);
      top = scrollTop(position, this.#height / average, head, range);
      top = Math.min(range - 2, Math.max(atTop ? 0 : 2, top));
    }
    this.#moveScrollBar(Math.round(top), Math.round(range));
  }

  #moveScrollBar(top, range) {
    if (range !== this.#range) this.canvas.style.height = `${this.#height + range}px`;
    if (range !== this.#range || top !== this.#top) this.scroller.scrollTop = top;
    this.#range = range;
    this.#top = top;
  }

  // --- rows ------------------------------------------------------------------------------------

  #resized(anyway = false) {
    this.#height = this.scroller.clientHeight;
    if (!this.#height) return;
    this.view.style.height = `${this.#height}px`;
    this.canvas.style.height = `${this.#height + this.#range}px`;
    this.#heights.reset(anyway);
    this.redraw();
  }

  #heightOf(index) {
    return this.#heights.of(this.lines.rows, index, this.shown.wrap);
  }

  #clipOf(row) {
    return this.#opened.has(row.seq) ? CLIP_OPEN : CLIP;
  }

  #openLine(target) {
    if (!target.matches("button.rest")) return;
    const seq = Number(target.closest(".line").dataset.seq);
    this.#opened.add(seq);
    const row = this.lines.rows[this.lines.indexOf(seq)];
    row.measured = null;
    this.#nodes.get(row)?.remove();
    this.#nodes.delete(row);
    this.#follow = false;
    this.redraw();
  }

  draw() {
    const { rows, attached, head } = this.lines;
    this.rows.classList.toggle("away", this.#target !== null);
    if (this.#target !== null) this.say(`Line ${count(this.#target)}…`);
    else if (rows.length) this.say(null);
    else if (attached) this.say(this.only ? `Nothing on ${this.only}.` : "No output yet.");
    if (!rows.length || !this.#height || !this.#heights.columns) {
      this.position = "";
      return;
    }
    const anchor =
      this.#follow || !this.#anchor
        ? endOf(rows.length)
        : { index: this.lines.indexOf(this.#anchor.seq), offset: this.#anchor.offset };
    const place = layout(anchor, rows.length, this.#height, (index) => this.#heightOf(index));
    this.#anchor = { seq: rows[place.index].seq, offset: place.offset };
    if (place.atEnd && attached && this.#target === null) this.#follow = true;
    this.#placeRows(rows.slice(place.index, place.last + 1));
    this.rows.style.transform = `translateY(${-place.offset}px)`;
    if (this.#target === null) this.#setScrollBar(place);
    this.position = `${count(rows[place.index].seq)}–${count(rows[place.last].end)} of ${count(head)}`;
    this.#fetchAround(place.index, place.last);
  }

  /* The rows in view are a run, so what stays is a run too: take away around it, add around it. Nodes that
     stay are not touched, and keep a reader's selection. */
  #placeRows(rows) {
    const wanted = new Set(rows);
    for (const [row, node] of this.#nodes) {
      if (wanted.has(row)) continue;
      node.remove();
      this.#nodes.delete(row);
    }
    let next = this.rows.firstElementChild;
    for (const row of rows) {
      let node = this.#nodes.get(row);
      if (!node) {
        node = this.#nodeOf(row);
        this.#nodes.set(row, node);
      }
      if (node === next) next = next.nextElementSibling;
      else this.rows.insertBefore(node, next);
    }
    this.#heights.seen(rows);
  }

  #clearRows() {
    this.#asks += 1;
    this.#busy = false;
    this.#anchor = null;
    this.#nodes.clear();
    this.rows.replaceChildren();
    this.#moveScrollBar(0, 0);
  }

  /* Make the rows in view anew. */
  #redo() {
    this.#nodes.clear();
    this.rows.replaceChildren();
    this.redraw();
  }

  #nodeOf(row) {
    const begun = Date.parse(this.task()?.started_at ?? row.time);
    const node = lineNode(row, { most: this.#clipOf(row), begun, times: this.shown.times, address: this.address });
    if (this.#marked !== null && row.seq <= this.#marked && this.#marked <= row.end) node.classList.add("linked");
    return node;
  }
}
