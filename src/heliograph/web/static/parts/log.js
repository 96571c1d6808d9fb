/* A task's log: the lines in view, and nothing else, as elements.

   `LogReader` loads and keeps a run of lines, `viewport` decides which rows are in view; this module
   draws. What is read stays where it is: the view hangs on a line's `seq`, not on
   pixels, so lines may come or go on either side. While following, the view hangs on the end instead. */

import { count } from "../core/format.js";
import { LogReader } from "../core/logreader.js";
import { endOf, layout } from "../core/viewport.js";
import { h, put } from "./dom.js";
import { Heights } from "./heights.js";
import { CLIP, CLIP_OPEN, lineNode } from "./line.js";
import { ScrollBar } from "./scrollbar.js";

const JUMP_MS = 60; // jumps that come faster ask for the last place alone

export class Log {
  /** How lines are shown: `times` is clock, elapsed or off; `wrap`: whether long lines are broken. */
  shown = { times: "clock", wrap: true };
  /** What is drawn at the foot: which lines are in view. */
  position = "";

  #opened = new Set(); // seq of long lines that were opened
  #marked = null; // seq of the line that a link names
  #follow = true;
  #anchor = null; // {seq, offset}
  #target = null; // seq a jump is on its way to
  #nodes = new Map(); // row → node, for the rows in view
  #heights = new Heights((row) => this.#nodeOf(row));
  #height = 0; // of the view
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
    Object.assign(this, { root, task, address, redraw });
    this.reader = new LogReader({ api, id, task, redraw, failed });
    this.rows = h("div.rows");
    this.view = h("div.view", {}, this.rows);
    this.canvas = h("div.canvas", {}, this.view);
    this.scroller = h("div.scroller", { tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Output" }, this.canvas);
    this.hint = h("p.hint", {}, "Loading…");
    root.append(this.scroller, this.#heights.node, this.hint);
    this.bar = new ScrollBar(this.scroller, this.canvas, { moved: (pixels) => this.#scrolled(pixels), jumped: (row) => this.#jumped(row), rested: redraw });
    this.scroller.addEventListener("keydown", (event) => this.#keyed(event));
    this.rows.addEventListener("click", (event) => this.#openLine(event.target));
    this.#resizes.observe(this.scroller);
  }

  get lines() {
    return this.reader.lines;
  }

  /** Of which stream lines are shown; null: of both. */
  get only() {
    return this.reader.only;
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
    this.#clearRows();
    const lines = this.reader.begin();
    this.#follow = seq === null;
    this.#marked = seq;
    this.#target = null;
    this.say("Loading…");
    lines.mark(await events());
    if (lines === this.lines) await (seq === null ? this.#askTail() : this.#askFrom(seq));
  }

  /** Show the lines of one stream alone, or (null) of both; takes effect with `load`. */
  narrow(stream) {
    this.reader.only = stream;
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
    this.reader.forget();
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
    if (on && !this.lines.attached) this.reader.attempt(() => this.#askTail());
    this.redraw();
  }

  // --- places ----------------------------------------------------------------------------------

  async #askTail() {
    if (await this.reader.tail()) this.#target = null;
  }

  async #askFrom(seq) {
    if (!(await this.reader.around(seq))) return;
    this.#anchor = { seq, offset: 0 };
    this.#target = null;
    this.redraw();
  }

  #scrolled(pixels) {
    if (!this.#anchor) return;
    if (pixels < 0) this.#follow = false;
    this.#anchor.offset += pixels;
    this.redraw();
  }

  #jumped(row) {
    if (!this.#anchor) return;
    const index = row(this.#height / this.#heights.average, this.lines.head);
    if (index === null) this.follow(true);
    else this.#goTo(1 + index);
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
      this.reader.forget();
      clearTimeout(this.#jumpTimer);
      this.#jumpTimer = setTimeout(() => this.#target === seq && this.reader.attempt(() => this.#askFrom(seq)), JUMP_MS);
    }
    this.redraw();
  }

  #setScrollBar(place) {
    const { rows, head, complete, attached } = this.lines;
    const { seq, end } = rows[place.index];
    this.bar.show({
      position: seq - 1 + ((end - seq + 1) * place.offset) / this.#heightOf(place.index),
      total: head,
      average: this.#heights.average,
      atTop: place.atStart && complete,
      atEnd: place.atEnd && attached,
      following: this.#follow,
    });
  }

  // --- rows ------------------------------------------------------------------------------------

  #resized(anyway = false) {
    this.#height = this.scroller.clientHeight;
    if (!this.#height) return;
    this.view.style.height = `${this.#height}px`;
    this.bar.resize(this.#height);
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
    if (this.#target === null) this.reader.near(place.index, place.last, this.#follow);
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
    this.#anchor = null;
    this.#nodes.clear();
    this.rows.replaceChildren();
    this.bar.clear();
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
