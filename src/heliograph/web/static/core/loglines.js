/* The loaded part of one task's log.

   A log may have millions of lines; the page keeps one contiguous run of them, bounded in lines and in
   characters, and asks for more on either side as the reader moves. While the run reaches the newest
   line it is *attached*: live messages are appended. If it doesn't (the reader is far up), live messages
   only move `head`, and the lines are fetched when the reader comes down. From before a question about
   the end until its answer, live messages are held; they join the run if they follow on it without a
   hole, which `seq` tells (1, 2, 3, … over all events of the task). An answer may have fewer lines than
   were asked for, when they are long; only an empty one says that there are no more.

   A program may write a line in pieces: after one that is `partial` more of the line follows, and one with
   `rewind` begins at the start of the line again. A row is a whole line, so it covers a range of `seq`; pieces are
   joined also where answers and live messages meet. What the other stream writes, or a change of status, ends a
   line. A line that moves the cursor up writes over the lines above, so it is one row with them, and so is what
   follows until the cursor is below them again. A row knows the style that the rows before it left on. Rows are
   never changed: one that has grown, or begins in another style, is another. No DOM here. */

import { sameStyle } from "./colours.js";
import { isAfter } from "./ids.js";
import { carry, lengthOf, reach } from "./terminal.js";

const MAX_LINES = 6_000;
const MAX_CHARS = 16_000_000;
const MAX_HELD = 20_000;
const MAX_MARKS = 5_000;
const MAX_MARK_CHARS = 8_000_000;
const MAX_JOINED = 1_000_000; // characters of a row; a longer line goes on in the next row
const MAX_REWOUND = 10_000; // characters of a line that is written over again and again, of which too little would show
const MAX_REACHED = 50_000; // characters of a row that is written by moving up
const CONTROL = /[\x00-\x1f\x7f-\x9f]/;

export class LogLines {
  /**
   * Rows in order of `seq`: lines `{seq, end, time, stream, text, open, over, style}`, or `{seq, end, id, time, status}`
   * for a change of status, with `topic` and `payload` for any other event; `size` of these counts as characters. `end` is the last `seq` of a row; `open`: more of the line follows; `over`: it begins by going
   * back to the start of its line; `style`: in force where it begins.
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
  #marks = new Map(); // seq → row of a change of status or another event
  #markChars = 0;
  #styles = {}; // by stream: in force behind the last row

  /**
   * @param {number} head the task's last `seq` as far as it is known
   * @param {string|null} only of this stream; what is fetched must be so, too
   */
  constructor(head = 0, only = null) {
    Object.assign(this, { head, only });
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

  /** Take in the task's changes of status and its own events; they become rows among the lines. Of very many the newest are kept. */
  mark(events) {
    for (const event of events) {
      const row = markRow(event);
      if (!row || this.#marks.has(event.seq)) continue;
      this.#marks.set(event.seq, row);
      this.#markChars += row.size;
    }
    if (this.#marks.size > MAX_MARKS || this.#markChars > MAX_MARK_CHARS) this.#forgetMarks();
  }

  /* A tenth more goes, so that it is seldom. */
  #forgetMarks() {
    const oldest = [...this.#marks.values()].sort((a, b) => a.seq - b.seq);
    for (const { seq, size } of oldest.slice(0, -1)) {
      if (this.#marks.size <= MAX_MARKS * 0.9 && this.#markChars <= MAX_MARK_CHARS * 0.9) return;
      this.#marks.delete(seq);
      this.#markChars -= size;
    }
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
    const styles = this.#styles;
    this.#replace(lines);
    if (seam) this.#push(seam);
    this.#restyle(rest, styles);
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
    if (message.type !== "task_output") this.mark([message]);
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
    if (this.only && row?.stream !== undefined && row.stream !== this.only) return;
    if (row && row.seq > this.last) this.#push(row);
  }

  /* Put a row behind the run, or join it to the last ones. */
  #push(row) {
    const { rows } = this;
    let whole = row;
    for (let more = this.#joins(row); more > 0; more -= 1) {
      const last = rows.pop();
      this.#chars -= charsOf([last]);
      whole = joined(last, whole, rows.length > 0 || this.complete || last.over);
    }
    if (row.status === undefined) {
      whole = { ...whole, style: whole === row ? (this.#styles[row.stream] ?? null) : whole.style };
      this.#styles[row.stream] = carry(whole.text, whole.style);
    }
    rows.push(whole);
    this.#chars += charsOf([whole]);
  }

  /* With how many of the last rows a row is one. */
  #joins(row) {
    const last = this.rows[this.rows.length - 1];
    if (last === undefined || row.status !== undefined) return 0;
    if (this.#isOneLine(last, row)) return 1;
    if (!this.#follows(last, row)) return 0;
    // A row that was left in its middle takes what comes next.
    if (last.text.length < MAX_REACHED && reach(last.text).below > 1) return 1;
    let lines = reach(row.text).above;
    let length = row.text.length;
    let more = 0;
    for (let i = this.rows.length - 1; i >= 0 && lines > 0; i--) {
      const above = this.rows[i];
      length += above.text?.length ?? 0;
      if (length > MAX_REACHED || !this.#follows(above, this.rows[i + 1] ?? row)) break;
      lines -= 1 + (above.text.match(/\n/g)?.length ?? 0);
      more += 1;
    }
    return more;
  }

  #isOneLine(row, next) {
    if (!row.open || !this.#follows(row, next)) return false;
    return next.over || row.text.length + next.text.length <= MAX_JOINED;
  }

  #follows(row, next) {
    if (row.status !== undefined || row.stream !== next.stream) return false;
    // Numbers between them are mostly events that are not shown here.
    return next.seq === row.end + 1 || ![...this.#marks.keys()].some((seq) => seq > row.end && seq < next.seq);
  }

  /* Rows before these have changed: let each begin in the style that is in force there now, until it is the one that
     was; from there on all is as before, up to the styles behind the last one. */
  #restyle(rows, behind) {
    const open = new Set(rows.map((row) => row.stream));
    for (let i = 0; i < rows.length && open.size; i++) {
      const row = rows[i];
      if (row.status !== undefined || !open.has(row.stream)) continue;
      const style = this.#styles[row.stream] ?? null;
      if (sameStyle(style, row.style)) {
        open.delete(row.stream);
        this.#styles[row.stream] = behind[row.stream];
      } else {
        rows[i] = { ...row, style, measured: null };
        this.#styles[row.stream] = carry(row.text, style);
      }
    }
  }

  /* Lines from `seq` on were added at the end: is it the end of the log? */
  #grown(seq, answer) {
    const end = this.last;
    const next = this.#held?.[0]?.seq ?? Infinity;
    const whole = !answer.lines.length || answer.meta.more === false || end >= this.head || next <= end + 1;
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
    this.#styles = {};
    this.complete = false;
    this.#chars = 0;
    for (const row of rows) this.#push(row);
  }

  /* A mark that is newer than the answer waits: lines may come before it. */
  #insertMarks(from, to, answer) {
    const missing = [...this.#marks.values()].filter(
      ({ seq, id }) => seq >= from && seq <= to && !isAfter(id, answer.meta.stream_cursor) && !this.#holds(seq),
    );
    if (!missing.length) return;
    this.rows = this.rows.concat(missing).sort((a, b) => a.seq - b.seq);
    this.#chars += charsOf(missing);
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
      this.#chars -= sizeOf(rowAt(cut));
      cut += 1;
    }
    return cut;
  }
}

function outputRow({ seq, timestamp, stream, output, partial, rewind }) {
  return { seq, end: seq, time: timestamp, stream: stream ?? "stdout", text: output, open: partial === true, over: rewind === true };
}

/* What became of the task is the status of its row; of any other event it is the topic that says what happened. */
function markRow({ type, topic, seq, id, timestamp, status, payload }) {
  const row = { seq, end: seq, id, time: timestamp, size: 0 };
  if (type === "task_status") return { ...row, status };
  if (topic === "task.status") return { ...row, status: payload.status };
  return topic === "task.created" || topic === "task.output" ? null : { ...row, status: "event", topic, payload, size: JSON.stringify(payload).length };
}

/* `whole`: whether the row is known to begin where its line does. */
function joined(row, next, whole) {
  const { seq, time, stream, style, over } = row;
  const one = { seq, end: next.end, time, stream, style, open: next.open, over };
  if (!row.open) return { ...one, text: `${row.text}\n${next.text}` };
  if (!next.over) return { ...one, text: row.text + next.text };
  // What is as long covers what was there; else both count, as a carriage return erases nothing.
  if (row.text.length > MAX_REWOUND) return { ...one, text: next.text, over: true };
  const covers = whole && !CONTROL.test(next.text) && lengthOf(next.text) >= lengthOf(row.text);
  return { ...one, text: covers ? next.text : `${row.text}\r${next.text}` };
}

function charsOf(rows) {
  return rows.reduce((sum, row) => sum + sizeOf(row), 0);
}

function sizeOf({ text, size }) {
  return size ?? text.length;
}
