/* The loaded part of one task's log.

   A log may have millions of lines; the page keeps one contiguous run of them, bounded in lines and in
   characters, and asks for more on either side as the reader moves. While the run reaches the newest
   line it is *attached*: live messages are appended. If it doesn't (the reader is far up), live messages
   only move `head`, and the lines are fetched when the reader comes down. From before a question about
   the end until its answer, live messages are held; they join the run if they follow on it without a
   hole, which `seq` tells (1, 2, 3, … over all events of the task). An answer may have fewer lines than
   were asked for, when they are long; only an empty one says that there are no more.

   A program may write a line in pieces: after one that is `partial` more of the line follows, and one with
   `rewind` is written over it. A row is a whole line, so it covers a range of `seq`; pieces are joined also
   where answers and live messages meet. What the other stream writes, or a change of status, ends a line. Rows
   are never changed: one that has grown is another. No DOM here. */

import { isAfter } from "./live.js";

const MAX_LINES = 6_000;
const MAX_CHARS = 16_000_000;
const MAX_HELD = 20_000;
const MAX_JOINED = 1_000_000; // characters of a row; a longer line goes on in the next row

export class LogLines {
  /**
   * Rows in order of `seq`: lines `{seq, end, time, stream, text, open, over}`, or `{seq, end, id, time, status}` for a
   * change of status. `end` is the last `seq` of a row; `open`: more of the line follows; `over`: it was begun anew, so
   * what may come before it in the same line does not show.
   */
  rows = [];
  /** Whether the run begins at the oldest line. */
  complete = false;
  /** Whether the run reaches the newest line, so that live messages are appended. */
  attached = false;
  /** The highest `seq` that is known to exist. */
  head = 0;

  #chars = 0;
  #held = null;
  #marks = new Map(); // seq → row of a change of status

  /** @param {number} head the task's last `seq` as far as it is known */
  constructor(head = 0) {
    this.head = head;
  }

  get first() {
    return this.rows.length ? this.rows[0].seq : 0;
  }

  get last() {
    return this.rows.length ? this.rows[this.rows.length - 1].end : 0;
  }

  /** Index of the row that holds a `seq`, or else of the first after it; the number of rows if there is none. */
  indexOf(seq) {
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].end < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Take in the task's changes of status, as events of the log; they become rows among the lines. */
  mark(events) {
    for (const event of events) this.#marks.set(event.seq, statusRow(event, event.payload.status));
  }

  /** Hold live messages back: a question about the end of the log is on its way. */
  hold() {
    this.#held ??= [];
  }

  /** Replace the run by the last lines of the log. Ends a `hold`. */
  showTail(answer) {
    this.#replace(answer.lines.map(outputRow));
    this.complete = !answer.lines.length || this.first === 1;
    this.#insertMarks(this.complete ? 0 : this.first, Infinity, answer);
    this.#attach();
  }

  /** Replace the run by lines from a `seq` on. Ends a `hold`. */
  showFrom(seq, answer) {
    this.#replace(answer.lines.map(outputRow));
    this.complete = seq <= 1;
    this.#grown(seq, answer);
  }

  /** Put older lines before the run. */
  prepend(answer) {
    const before = this.first;
    const lines = answer.lines.map(outputRow).filter((row) => row.seq < before);
    const [seam, ...rest] = this.rows;
    this.#replace(lines);
    if (seam) this.#push(seam);
    for (const row of rest) this.rows.push(row);
    this.#chars += charsOf(rest);
    this.complete = !lines.length || this.first === 1;
    this.#insertMarks(this.complete ? 0 : this.first, before, answer);
    this.#trimEnd();
  }

  /** Put newer lines behind the run. Ends a `hold`. */
  extend(answer) {
    const after = this.last;
    const lines = answer.lines.map(outputRow).filter((row) => row.seq > after);
    for (const row of lines) this.#push(row);
    this.#grown(after, answer);
    this.#trimStart();
  }

  /**
   * Take one live message of this task.
   *
   * @param {object} message
   * @param {boolean} following whether the reader is at the end; if not, and the run is full, it is
   *   detached, so that the lines being read stay
   */
  take(message, following) {
    this.head = Math.max(this.head, message.seq);
    if (message.type === "task_status") this.#marks.set(message.seq, statusRow(message, message.status));
    if (this.#held) {
      this.#held.push(message);
      if (this.#held.length > MAX_HELD) this.#detach();
    } else if (this.attached) {
      if (!following && this.#full()) return this.#detach();
      this.#append(message);
      this.#trimStart();
    }
  }

  #append(message) {
    const row = message.type === "task_output" ? outputRow(message) : this.#marks.get(message.seq);
    if (row && row.seq > this.last) this.#push(row);
  }

  /* Put a row behind the run, or join it to the last one. */
  #push(row) {
    const last = this.rows[this.rows.length - 1];
    const whole = last && this.#isOneLine(last, row) ? joined(last, row) : row;
    if (whole !== row) this.#chars -= charsOf([this.rows.pop()]);
    this.rows.push(whole);
    this.#chars += charsOf([whole]);
  }

  #isOneLine(row, next) {
    if (!row.open || row.stream !== next.stream) return false;
    if (!next.over && row.text.length + next.text.length > MAX_JOINED) return false;
    // Numbers between them are mostly events that are not shown here.
    return next.seq === row.end + 1 || ![...this.#marks.keys()].some((seq) => seq > row.end && seq < next.seq);
  }

  /* Lines from `seq` on were added at the end: is it the end of the log? */
  #grown(seq, answer) {
    const end = this.last;
    const next = this.#held?.[0]?.seq ?? Infinity;
    const whole = !answer.lines.length || end >= this.head || next <= end + 1;
    this.#insertMarks(seq, answer.lines.length ? end : Infinity, answer);
    if (whole) this.#attach();
    else this.#detach();
  }

  #attach() {
    const held = this.#held;
    this.#detach();
    if (!held) return; // too much came meanwhile: what is missing is fetched like anything newer
    this.attached = true;
    for (const message of held) this.#append(message);
    this.#trimStart();
  }

  #detach() {
    this.#held = null;
    this.attached = false;
    this.head = Math.max(this.head, this.last);
  }

  #replace(rows) {
    this.rows = [];
    this.#chars = 0;
    for (const row of rows) this.#push(row);
  }

  /* A mark that is newer than the answer waits: lines may come before it. */
  #insertMarks(from, to, answer) {
    const missing = [...this.#marks.values()].filter(
      ({ seq, id }) => seq >= from && seq <= to && !isAfter(id, answer.meta.stream_cursor) && !this.#holds(seq),
    );
    if (missing.length) this.rows = this.rows.concat(missing).sort((a, b) => a.seq - b.seq);
  }

  #holds(seq) {
    const row = this.rows[this.indexOf(seq)];
    return row !== undefined && row.seq <= seq;
  }

  #full() {
    return this.rows.length >= MAX_LINES || this.#chars >= MAX_CHARS;
  }

  #trimStart() {
    const cut = this.#surplus((i) => this.rows[i]);
    if (!cut) return;
    this.rows.splice(0, cut);
    this.complete = false;
  }

  #trimEnd() {
    const end = this.rows.length - 1;
    const cut = this.#surplus((i) => this.rows[end - i]);
    if (!cut) return;
    this.rows.length -= cut;
    this.#detach();
  }

  /* How many rows are too many, counted from one end; a tenth more goes, so that it is seldom. */
  #surplus(rowAt) {
    if (this.rows.length <= MAX_LINES && this.#chars <= MAX_CHARS) return 0;
    let cut = 0;
    while (cut < this.rows.length - 1 && (this.rows.length - cut > MAX_LINES * 0.9 || this.#chars > MAX_CHARS * 0.9)) {
      this.#chars -= rowAt(cut).text?.length ?? 0;
      cut += 1;
    }
    return cut;
  }
}

function outputRow({ seq, timestamp, stream, output, partial, rewind }) {
  return { seq, end: seq, time: timestamp, stream: stream ?? "stdout", text: output, open: partial === true, over: rewind === true };
}

function statusRow({ seq, id, timestamp }, status) {
  return { seq, end: seq, id, time: timestamp, status };
}

function joined({ seq, time, stream, text, over }, next) {
  return { seq, end: next.end, time, stream, text: next.over ? next.text : text + next.text, open: next.open, over: over || next.over };
}

function charsOf(rows) {
  return rows.reduce((sum, row) => sum + (row.text?.length ?? 0), 0);
}
