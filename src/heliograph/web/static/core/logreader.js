/* The questions for the lines of a log: which part of it is asked for next, and how much at once.

   Any place of a log is one question by `seq`, so that none costs more for what lies before it. The latest question
   wins: an answer to an older one is thrown away. No DOM here. */

import { paths } from "./api.js";
import { LogLines } from "./loglines.js";

const PAGE_LINES = 500;
const MOST_LINES = 5_000; // that the service gives at once
const PAGE_BYTES = 4_000_000;
const NEAR = 150; // rows from the end of the loaded run at which more is fetched
const RETRY_MS = 3_000;

export class LogReader {
  /** The lines loaded. */
  lines = new LogLines();
  /** Of which stream lines are asked for; null: of both. Takes effect with `begin`. */
  only = null;

  #asks = 0; // counts questions: an answer to an older one is too late
  #busy = false;
  #blockedUntil = 0;

  /**
   * @param {object} options
   * @param {import("./api.js").Api} options.api
   * @param {string} options.id of the task
   * @param {() => object} options.task as far as it is known
   * @param {() => void} options.redraw
   * @param {(problem: Error) => void} options.failed is told of a question without an answer
   */
  constructor({ api, id, task, redraw, failed }) {
    Object.assign(this, { api, id, task, redraw, failed });
  }

  /** Forget what is loaded, and hold what comes until the first answer. */
  begin() {
    this.forget();
    this.lines = new LogLines(this.task()?.last_seq, this.only);
    this.lines.hold();
    return this.lines;
  }

  /** What is asked for is not wanted any more. */
  forget() {
    this.#asks += 1;
    this.#busy = false;
  }

  /** Load the end of the log; tells whether that is what is loaded now. */
  async tail() {
    const n = this.#pageLines();
    this.lines.hold();
    return this.#ask({ tail: n }, (answer) => this.lines.showTail(answer));
  }

  /** Load what is around a line, or the end if there is nothing; tells whether that is what is loaded now. */
  async around(seq) {
    const n = this.#pageLines();
    const from = Math.max(1, seq - Math.floor(n / 4));
    this.lines.hold();
    const taken = await this.#ask({ from_seq: from, limit: n }, (answer) => this.lines.showFrom(from, answer));
    if (taken && !this.lines.rows.length) await this.tail();
    return taken;
  }

  /** Load more where these rows are near an end of what is loaded; `follow`: the reader wants the newest. */
  near(first, last, follow) {
    if (this.#busy || performance.now() < this.#blockedUntil) return;
    const { lines } = this;
    if (!lines.attached && last >= lines.rows.length - NEAR) {
      const far = lines.head - lines.last > 4 * PAGE_LINES;
      this.attempt(() => (follow && far ? this.tail() : this.#newer()));
    } else if (!lines.complete && first < NEAR) {
      this.attempt(() => this.#older());
    }
  }

  /** Ask something; without an answer, nothing is asked for a while. */
  async attempt(question) {
    try {
      await question();
    } catch (problem) {
      this.#blockedUntil = performance.now() + RETRY_MS;
      setTimeout(this.redraw, RETRY_MS);
      this.failed(problem);
    }
  }

  async #older() {
    const n = this.#pageLines();
    await this.#ask({ to_seq: this.lines.first - 1, tail: n }, (answer) => this.lines.prepend(answer));
  }

  async #newer() {
    const n = this.#pageLines();
    this.lines.hold();
    await this.#ask({ from_seq: this.lines.last + 1, limit: n }, (answer) => this.lines.extend(answer));
  }

  /* Lines per question: fewer where they are long, more where it takes many pieces to make a line. */
  #pageLines() {
    const task = this.task();
    if (!task?.output_lines) return PAGE_LINES;
    const { rows, first, last } = this.lines;
    const most = rows.length ? Math.min(MOST_LINES, Math.ceil((PAGE_LINES * (last - first + 1)) / rows.length)) : PAGE_LINES;
    return Math.max(20, Math.min(most, Math.floor((PAGE_BYTES * task.output_lines) / (task.output_bytes + 1))));
  }

  /* Tells whether the answer was still wanted. */
  async #ask(query, take) {
    const ask = ++this.#asks;
    this.#busy = true;
    try {
      const answer = await this.api.get(paths.log(this.id), { ...query, stream: this.only });
      if (ask !== this.#asks) return false;
      take(answer);
      return true;
    } finally {
      if (ask === this.#asks) this.#busy = false;
      this.redraw();
    }
  }
}
