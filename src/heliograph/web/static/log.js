/* One task's log on the page: the lines in view, and nothing else, as DOM.

   `LogLines` keeps the loaded run of lines, `viewport` decides which rows are in view; this module
   fetches, measures and draws. What is read stays where it is: the view hangs on a line's `seq`, not on
   pixels, so lines may come or go on either side. While following, the view hangs on the end instead. */

import { parse } from "./ansi.js";
import { agentOf, isDemo, nameOf } from "./fleet.js";
import { bytes, clock, count, duration, moment, money } from "./format.js";
import { put } from "./list.js";
import { LogLines } from "./loglines.js";
import { TERMINAL } from "./task.js";
import { endOf, layout, rowAt, scrollTop, trackHeight } from "./viewport.js";

const PAGE_LINES = 500;
const MOST_LINES = 5_000; // that the service gives at once
const PAGE_BYTES = 4_000_000;
const NEAR = 150; // rows from the end of the loaded run at which more is fetched
const BATCH = 24; // rows measured together, on each side
const CLIP = 1_200; // characters of a line shown at first
const CLIP_OPEN = 100_000; // and after a click
const DETAIL_CHARS = 20_000;
const JUMP = 3; // scrolls of more than so many views are jumps of the scroll bar
const REST_MS = 150; // the scroll bar is set right when it was left alone for so long
const RETRY_MS = 3_000;

const ONE_COLUMN_EACH = /^[ -~]*$/;

export class LogView {
  /** Id of the open task. */
  id = null;

  #turn = 0; // counts openings
  #asks = 0; // counts questions: an answer to an older one is too late
  #busy = false;
  #blockedUntil = 0;
  #lines = new LogLines();
  #details = null;
  #opened = new Set(); // seq of long lines that were opened
  #follow = true;
  #anchor = null; // {seq, offset}
  #target = null; // seq a jump is on its way to
  #nodes = new Map(); // row → node, for the rows in view
  #heights = { row: 19, average: 19, columns: 80 };
  #generation = 0; // of measurements; a new width begins a new one
  #height = 0; // of the view
  #range = 0; // largest value of the scroll bar
  #top = 0; // its value
  #scrolledAt = 0;
  #jumpedAt = -Infinity; // a drag of the scroll bar is many jumps, and its last steps are small
  #jumpTimer = null;

  /**
   * @param {Element} root the log's article
   * @param {object} options
   * @param {import("./api.js").Api} options.api
   * @param {import("./fleet.js").Fleet} options.fleet knows the task itself, live
   * @param {() => void} options.redraw asks for `draw` in the next frame
   * @param {(problem: Error) => void} options.failed is told of a question without an answer
   */
  constructor(root, { api, fleet, redraw, failed }) {
    Object.assign(this, { root, api, fleet, redraw, failed });
    const find = (selector) => root.querySelector(selector);
    this.scroller = find(".scroller");
    this.canvas = find(".canvas");
    this.view = find(".view");
    this.rows = find(".view .rows");
    this.measure = find(".measure");
    this.hint = find(".hint");
    this.parts = Object.fromEntries(
      ["log-status", "log-name", "log-demo", "facts", "failure", "details", "position", "follow", "full", "copy-link", "to-top"].map(
        (id) => [id, document.getElementById(id)],
      ),
    );
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.#keyed(event));
    this.rows.addEventListener("click", (event) => this.#openLine(event.target));
    this.parts.follow.addEventListener("click", () => this.follow(!this.#follow));
    this.parts["to-top"].addEventListener("click", () => this.#goTo(1));
    this.parts["copy-link"].addEventListener("click", (event) => copied(event.target, location.href));
    this.parts.full.addEventListener("click", (event) => this.#download(event));
    new ResizeObserver(() => this.#resized()).observe(this.scroller);
  }

  /** Turn to a task; `reload` then loads its log. */
  open(id) {
    this.id = id;
    this.#turn += 1;
    this.#lines = new LogLines();
    this.#clearRows();
    this.#say("Loading…");
    this.root.hidden = false;
    this.#details = null;
    this.#opened.clear();
    put(this.parts["log-name"], id);
    this.parts.full.href = `${this.#path()}/logs/full`;
    this.parts.full.download = `${id}.log`;
  }

  /**
   * Load the log from its end, forgetting what is loaded. The stream must have been started: what comes
   * after the answer's cursor is taken from it.
   */
  async reload() {
    if (this.id === null) return;
    const turn = ++this.#turn;
    this.#lines = new LogLines(this.fleet.get(this.id)?.last_seq);
    this.#follow = true;
    this.#target = null;
    this.#clearRows();
    this.#say("Loading…");
    this.#lines.hold();
    try {
      const task = await this.api.get(this.#path());
      if (turn !== this.#turn) return;
      this.fleet.merge([task]);
      this.#details = { input: task.input, metadata: task.metadata, result: task.result };
      this.#drawDetails();
      const marks = await this.api.get("/api/v1/events", { channel: `task:${this.id}`, topic: "task.status", limit: 100 });
      if (turn !== this.#turn) return;
      this.#lines.mark(marks.events);
      await this.#askTail();
    } catch (problem) {
      if (turn !== this.#turn) return;
      this.#say(problem.status === 404 ? "There is no such task." : problem.message);
      if (problem.status !== 404) this.failed(problem);
    }
  }

  close() {
    this.id = null;
    this.#turn += 1;
    this.#asks += 1;
    this.root.hidden = true;
    this.#clearRows();
    this.#lines = new LogLines();
  }

  /** Take one live message of this task; whoever hands it over has it drawn. */
  take(message) {
    this.#lines.take(message, this.#follow);
    if (message.type === "task_status" && this.#details && message.result != null) {
      this.#details.result = message.result;
      this.#drawDetails();
    }
  }

  /** Hang the view on the end of the log, or leave it where it is. */
  follow(on) {
    this.#follow = on;
    this.#target = null;
    if (on && !this.#lines.attached) this.#tryTo(() => this.#askTail());
    this.redraw();
  }

  draw() {
    if (this.id === null) return;
    this.#drawTask();
    this.#drawLines();
  }

  // --- questions -------------------------------------------------------------------------------

  #path() {
    return `/api/tasks/${encodeURIComponent(this.id)}`;
  }

  /* Lines per question: fewer where they are long, more where it takes many pieces to make a line. */
  #pageLines() {
    const task = this.fleet.get(this.id);
    if (!task?.output_lines) return PAGE_LINES;
    const { rows, first, last } = this.#lines;
    const most = rows.length ? Math.min(MOST_LINES, Math.ceil((PAGE_LINES * (last - first + 1)) / rows.length)) : PAGE_LINES;
    return Math.max(20, Math.min(most, Math.floor((PAGE_BYTES * task.output_lines) / (task.output_bytes + 1))));
  }

  /* Ask for lines; the latest question wins. */
  async #ask(query, take) {
    const ask = ++this.#asks;
    this.#busy = true;
    try {
      const answer = await this.api.get(`${this.#path()}/logs`, query);
      if (ask === this.#asks) take(answer);
    } finally {
      if (ask === this.#asks) this.#busy = false;
      this.redraw();
    }
  }

  async #askTail() {
    const n = this.#pageLines();
    this.#lines.hold();
    await this.#ask({ tail: n }, (answer) => {
      this.#lines.showTail(answer);
      this.#target = null;
    });
  }

  async #askFrom(seq) {
    const n = this.#pageLines();
    const from = Math.max(1, seq - Math.floor(n / 4));
    this.#lines.hold();
    await this.#ask({ from_seq: from, limit: n }, (answer) => {
      this.#lines.showFrom(from, answer);
      this.#anchor = { seq, offset: 0 };
      this.#target = null;
    });
    if (!this.#lines.rows.length) await this.#askTail();
  }

  async #askOlder() {
    const n = this.#pageLines();
    await this.#ask({ to_seq: this.#lines.first - 1, tail: n }, (answer) => this.#lines.prepend(answer));
  }

  async #askNewer() {
    const n = this.#pageLines();
    this.#lines.hold();
    await this.#ask({ from_seq: this.#lines.last + 1, limit: n }, (answer) => this.#lines.extend(answer));
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
    const lines = this.#lines;
    if (!lines.attached && last >= lines.rows.length - NEAR) {
      const far = lines.head - lines.last > 4 * PAGE_LINES;
      this.#tryTo(() => (this.#follow && far ? this.#askTail() : this.#askNewer()));
    } else if (!lines.complete && first < NEAR) {
      this.#tryTo(() => this.#askOlder());
    }
  }

  async #download(event) {
    if (!this.api.key) return; // the link itself will do
    event.preventDefault();
    try {
      const link = this.parts.full.cloneNode();
      link.search = new URLSearchParams({ ticket: await this.api.ticket() });
      link.click();
    } catch (problem) {
      this.failed(problem);
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
      else this.#goTo(1 + rowAt(top, this.#height / this.#heights.average, this.#lines.head, this.#range));
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
    const { first, last, complete } = this.#lines;
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
    const { rows, head, complete, attached } = this.#lines;
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

  // --- measuring -------------------------------------------------------------------------------

  #resized() {
    this.#height = this.scroller.clientHeight;
    if (!this.#height) return;
    this.view.style.height = `${this.#height}px`;
    this.canvas.style.height = `${this.#height + this.#range}px`;
    const probe = lineNode({ seq: 1, time: "1970-01-01T00:00:00Z", text: "x" }, CLIP);
    const text = probe.lastElementChild;
    this.measure.replaceChildren(probe);
    const width = text.clientWidth;
    const row = probe.offsetHeight;
    const range = document.createRange();
    range.selectNodeContents(text);
    const columns = Math.floor(width / range.getBoundingClientRect().width);
    this.measure.replaceChildren();
    if (columns !== this.#heights.columns || row !== this.#heights.row) {
      this.#heights = { row, average: row, columns };
      this.#generation += 1;
    }
    this.redraw();
  }

  #heightOf(index) {
    const row = this.#lines.rows[index];
    if (row.measured !== this.#generation) this.#measureAround(index);
    return row.height;
  }

  /* Rows that can't wrap have the height of a line; the others are laid out to see, many at a time. */
  #measureAround(index) {
    const { rows } = this.#lines;
    const wrapping = [];
    for (let i = Math.max(0, index - BATCH); i < Math.min(rows.length, index + BATCH); i++) {
      const row = rows[i];
      if (row.measured === this.#generation) continue;
      row.measured = this.#generation;
      row.height = this.#heights.row;
      const fits = row.text !== undefined && row.text.length <= this.#heights.columns && ONE_COLUMN_EACH.test(row.text);
      if (!fits) wrapping.push(row);
    }
    if (!wrapping.length) return;
    const nodes = wrapping.map((row) => lineNode(row, this.#clipOf(row)));
    this.measure.replaceChildren(...nodes);
    wrapping.forEach((row, i) => (row.height = Math.max(1, nodes[i].offsetHeight)));
    this.measure.replaceChildren();
  }

  #clipOf(row) {
    return this.#opened.has(row.seq) ? CLIP_OPEN : CLIP;
  }

  #openLine(target) {
    if (!target.matches("button.rest")) return;
    const seq = Number(target.closest(".line").dataset.seq);
    this.#opened.add(seq);
    const row = this.#lines.rows[this.#lines.indexOf(seq)];
    row.measured = null;
    this.#nodes.get(row)?.remove();
    this.#nodes.delete(row);
    this.#follow = false;
    this.redraw();
  }

  // --- drawing ---------------------------------------------------------------------------------

  #drawLines() {
    const { rows, attached, head } = this.#lines;
    this.parts.follow.setAttribute("aria-pressed", this.#follow);
    this.rows.classList.toggle("away", this.#target !== null);
    if (this.#target !== null) this.#say(`Line ${count(this.#target)}…`);
    else if (rows.length) this.#say(null);
    else if (attached) this.#say("No output yet.");
    if (!rows.length || !this.#height || !this.#heights.columns) {
      put(this.parts.position, "");
      return;
    }
    const anchor =
      this.#follow || !this.#anchor
        ? endOf(rows.length)
        : { index: this.#lines.indexOf(this.#anchor.seq), offset: this.#anchor.offset };
    const place = layout(anchor, rows.length, this.#height, (index) => this.#heightOf(index));
    this.#anchor = { seq: rows[place.index].seq, offset: place.offset };
    if (place.atEnd && attached && this.#target === null) this.#follow = true;
    this.#placeRows(rows.slice(place.index, place.last + 1));
    this.rows.style.transform = `translateY(${-place.offset}px)`;
    if (this.#target === null) this.#setScrollBar(place);
    put(this.parts.position, `${count(rows[place.index].seq)}–${count(rows[place.last].end)} of ${count(head)}`);
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
    let heights = 0;
    for (const row of rows) {
      let node = this.#nodes.get(row);
      if (!node) {
        node = lineNode(row, this.#clipOf(row));
        this.#nodes.set(row, node);
      }
      if (node === next) next = next.nextElementSibling;
      else this.rows.insertBefore(node, next);
      heights += row.height;
    }
    this.#heights.average += (heights / rows.length - this.#heights.average) / 8;
  }

  #clearRows() {
    this.#asks += 1;
    this.#busy = false;
    this.#anchor = null;
    this.#nodes.clear();
    this.rows.replaceChildren();
    this.#moveScrollBar(0, 0);
  }

  #say(text) {
    this.hint.hidden = text === null;
    if (text !== null) put(this.hint, text);
  }

  #drawTask() {
    const task = this.fleet.get(this.id);
    this.root.dataset.status = task?.status ?? "";
    put(this.parts["log-status"], task?.status ?? "");
    put(this.parts["log-name"], task ? nameOf(task) : this.id);
    this.parts["log-demo"].hidden = !task || !isDemo(task);
    this.parts.failure.hidden = !task?.error;
    put(this.parts.failure, task?.error ? task.error.slice(0, DETAIL_CHARS) : "");
    drawFacts(this.parts.facts, task ? factsOf(task, this.api.now()) : []);
  }

  #drawDetails() {
    const given = Object.entries(this.#details).filter(([, value]) => value != null);
    this.parts.details.hidden = !given.length;
    const text = given.map(([name, value]) => `${name}: ${JSON.stringify(value, null, 2)}`).join("\n\n");
    const clipped = text.length > DETAIL_CHARS ? `${text.slice(0, DETAIL_CHARS)}\n…` : text;
    put(this.parts.details.querySelector("pre"), clipped);
  }
}

function factsOf(task, now) {
  const begun = task.started_at ?? task.created_at;
  const lasted = TERMINAL.has(task.status) ? task.duration_ms : task.status === "running" ? now - Date.parse(begun) : null;
  const tokens = task.input_tokens == null && task.output_tokens == null ? null : `${count(task.input_tokens ?? 0)} in, ${count(task.output_tokens ?? 0)} out`;
  return [
    ["Task", task.task_id],
    ["Agent", [agentOf(task), task.agent_type && task.agent_type !== task.agent && `(${task.agent_type})`].filter(Boolean).join(" ")],
    ["Model", task.model],
    ["Session", task.session_id],
    [task.started_at ? "Started" : "Created", moment(begun, now)],
    ["Duration", lasted == null ? null : duration(lasted)],
    ["Output", task.output_lines ? `${count(task.output_lines)} ${task.output_lines === 1 ? "line" : "lines"}, ${bytes(task.output_bytes)}` : null],
    ["Tokens", tokens],
    ["Cost", task.cost_usd == null ? null : money(task.cost_usd)],
  ].filter(([, value]) => value);
}

function drawFacts(list, facts) {
  while (list.children.length > facts.length) list.lastElementChild.remove();
  facts.forEach(([name, value], i) => {
    let fact = list.children[i];
    if (!fact) {
      fact = document.createElement("div");
      fact.append(document.createElement("dt"), document.createElement("dd"));
      list.append(fact);
    }
    put(fact.firstElementChild, name);
    put(fact.lastElementChild, value);
  });
}

function lineNode(row, clip) {
  const node = element("div", "line");
  node.dataset.seq = row.seq;
  node.append(element("span", "seq", row.seq), element("time", "", clock(row.time)));
  if (row.status) {
    node.classList.add("mark");
    node.dataset.status = row.status;
    node.append(element("span", "text", row.status));
    return node;
  }
  if (row.stream === "stderr") node.classList.add("stderr");
  const text = element("span", "text");
  for (const span of parse(row.text.slice(0, clip))) text.append(span.style ? styled(span) : span.text);
  const rest = row.text.length - clip;
  if (rest > 0) {
    text.append(clip < CLIP_OPEN ? element("button", "rest", `+ ${count(rest)} characters`) : ` … ${count(rest)} more characters are in the full log`);
  }
  node.append(text);
  return node;
}

/* The 16 terminal colours are classes, so that the style sheet says what they look like; others are given. */
function styled({ text, style }) {
  const span = element("span", "", text);
  const { fg, bg } = style.inverse ? { fg: style.bg ?? "page", bg: style.fg ?? "text" } : style;
  if (typeof fg === "string" && fg !== "page") span.style.color = fg;
  else if (fg !== undefined) span.classList.add(`fg-${fg}`);
  if (typeof bg === "string" && bg !== "text") span.style.backgroundColor = bg;
  else if (bg !== undefined) span.classList.add(`bg-${bg}`);
  for (const flag of ["bold", "dim", "italic", "underline", "strike"]) if (style[flag]) span.classList.add(flag);
  return span;
}

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Copy a text, and say so on the button for a moment. */
export async function copied(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = label), 1500);
}
