/* The tasks that the page knows of, as the list shows them, kept live.

   A task is fetched whole and then moved on by what streams tell: every change of status and every description, and of
   its output the newest line now and then. So its count of lines is an estimate while it runs; where what was
   heard can't tell how a task is now (it began or ended, or nothing is known of it), the task is *unsure*, and
   whoever made this is asked to fetch it. What is fetched and is newer always wins, in whatever order it comes. No DOM here. */

import { fold, firstSeen, STATUSES, TERMINAL } from "./task.js";
import { isAfter } from "./ids.js";
import { QUESTION, wordsOf } from "./question.js";
import { plain } from "./terminal.js";

const MAX_TASKS = 20_000;
/** A running task of which nothing was heard for so long is silent. */
export const SILENT_MS = 5 * 60_000;

const LATEST_CHARS = 240;
const LATEST_RAW = 20_000; // characters of output in which its last line is looked for, with all their sequences

const ORDERS = {
  cost: (task) => task.cost_usd ?? -1,
  duration: (task) => task.duration_ms ?? -1,
};

export class Fleet {
  /** Grows whenever the set of tasks, a status or a description changed: time to sort and filter anew. */
  version = 0;
  /** Set when anything to be shown changed; whoever draws resets it. */
  dirty = false;

  #tasks = new Map();
  #unsure = new Set();

  /**
   * @param {object} on
   * @param {(id: string, later: boolean) => void} on.fetch a task is unsure: answer with `merge` or `forget`; `later`:
   *   the answer was behind what is known, so ask in a while
   * @param {(task: object, before: string|null|undefined) => void} on.moved a task has another status than `before`:
   *   null, it is new; undefined, it was not known
   */
  constructor({ fetch, moved }) {
    Object.assign(this, { fetch, moved });
  }

  get size() {
    return this.#tasks.size;
  }

  get(id) {
    return this.#tasks.get(id);
  }

  /** Forget everything: a new snapshot follows. */
  clear() {
    this.#tasks.clear();
    this.#unsure.clear();
    this.#changed();
  }

  /** Take in tasks as the service gives them. What is already known further on stays. */
  merge(tasks) {
    for (const task of tasks) {
      const known = this.#tasks.get(task.task_id);
      this.#unsure.delete(task.task_id);
      // A list needs no inputs and results, and they may be a megabyte each.
      const listed = { ...task, input: null, result: null, latest: known?.latest ?? "", asks: known?.asks ?? "", silent: known?.silent ?? false };
      if (known && known.last_seq > task.last_seq && !isAfter(task.last_event_id, known.last_event_id)) {
        if (known.status === task.status) Object.assign(known, goneOn(known, listed));
        else this.#ask(task.task_id, true);
        continue;
      }
      this.#tasks.set(task.task_id, listed);
      if (known?.status !== task.status) this.moved(listed, known?.status);
    }
    this.#changed();
  }

  /** A task could not be fetched: its next message asks again. */
  forget(id) {
    this.#unsure.delete(id);
  }

  /** Take in the last output of a task whose messages have not said any yet. */
  glimpse(id, output) {
    const task = this.#tasks.get(id);
    if (!task || task.latest) return;
    task.latest = lastLine(output);
    this.dirty = true;
  }

  /** Take in the words of the question of a waiting task whose messages have not said any yet. */
  ask(id, words) {
    const task = this.#tasks.get(id);
    if (!task || task.asks) return;
    task.asks = words;
    this.dirty = true;
  }

  /** These are the tasks of which the service has heard nothing for long. */
  silence(ids) {
    for (const task of this.#tasks.values()) task.silent = ids.has(task.task_id);
    this.dirty = true;
  }

  /** Take one message of the streams. */
  take(message) {
    const id = message.channel.slice("task:".length);
    let task = this.#tasks.get(id);
    // A first event after the last one: the service had forgotten the channel, and its task.
    if (task && message.seq === 1 && isAfter(message.id, task.last_event_id)) task = null;
    if (!task && message.seq === 1) {
      task = { ...firstSeen(message), latest: "", asks: "", silent: false };
      this.#tasks.set(id, task);
      this.#changed();
      this.moved(task, null);
    }
    if (!task) return this.#ask(id);
    if (message.seq <= task.last_seq) return;
    if (message.type === "task_output") this.#hear(task, message);
    else this.#change(task, message);
    this.dirty = true;
  }

  #hear(task, message) {
    const begun = task.status === "queued";
    task.output_lines += message.seq - task.last_seq;
    task.last_seq = message.seq;
    task.last_event_id = message.id;
    task.updated_at = message.timestamp;
    task.latest = lastLine(message.output) || task.latest;
    if (!begun) return;
    fold(task, message);
    task.output_lines -= 1; // it was counted
    this.#changed();
    this.moved(task, "queued");
    this.#ask(task.task_id); // it may have begun with a line that was not heard
  }

  #change(task, message) {
    const { status } = task;
    task.output_lines += Math.max(0, message.seq - task.last_seq - 1);
    fold(task, message);
    if (message.topic === QUESTION) task.asks = wordsOf(message.payload);
    else if (task.status !== "waiting_input" && task.status !== status) task.asks = "";
    task.result = null;
    if (task.status !== status) this.moved(task, status);
    if (task.status !== status || message.type === "event") this.#changed();
    if (TERMINAL.has(task.status)) this.#ask(task.task_id); // its numbers are final now
  }

  #ask(id, later = false) {
    if (this.#unsure.has(id)) return;
    this.#unsure.add(id);
    this.fetch(id, later);
  }

  #changed() {
    if (this.#tasks.size > MAX_TASKS) this.#shed();
    this.version += 1;
    this.dirty = true;
  }

  /* Past the bound the oldest finished tasks go; they are still in the service's own list. */
  #shed() {
    const finished = [...this.#tasks.values()].filter((task) => TERMINAL.has(task.status)).sort(newestFirst);
    for (const task of finished.slice(Math.floor(MAX_TASKS * 0.9))) this.#tasks.delete(task.task_id);
  }

  /** Every value of a field that some task has. */
  names(field) {
    const names = new Set();
    for (const task of this.#tasks.values()) if (task[field]) names.add(task[field]);
    return names;
  }

  /**
   * The tasks that pass a filter, by status, each status in its own order, or by `sort`: `cost` or `duration`.
   *
   * @returns {Object<string, object[]>}
   */
  sections(filter) {
    const passes = passing(filter);
    const sections = Object.fromEntries(STATUSES.map((status) => [status, []]));
    for (const task of this.#tasks.values()) if (passes(task)) sections[task.status]?.push(task);
    const order = ORDERS[filter.sort];
    const largestFirst = order && ((a, b) => order(b) - order(a) || newestFirst(a, b));
    for (const [status, tasks] of Object.entries(sections)) tasks.sort(largestFirst ?? (TERMINAL.has(status) ? latestEndFirst : newestFirst));
    return sections;
  }
}

/* A task as it was fetched, and what has come since of one that still is as it was. */
function goneOn(known, { output_lines, last_seq, ...fetched }) {
  const { updated_at, latest, asks, silent } = known;
  const heard = { last_seq: known.last_seq, last_event_id: known.last_event_id };
  return { ...fetched, updated_at, latest, asks, silent, ...heard, output_lines: output_lines + known.last_seq - last_seq };
}

/**
 * The test of a filter, by the rules of the service: every word somewhere in the id or a name or the error, in
 * either case; everything else exactly.
 */
export function passing({ text = "", agent, agent_type, model, session_id }) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const exact = Object.entries({ agent, agent_type, model, session_id }).filter(([, value]) => value);
  return (task) => exact.every(([name, value]) => task[name] === value) && (!words.length || mentions(task, words));
}

/** Whether nothing was heard of a running task for long: the service says so, and nothing came since. */
export function isSilent(task, now) {
  return task.silent && isQuiet(task, now);
}

/** Whether nothing was heard of a running task for long, as far as the page knows. */
export function isQuiet(task, now) {
  return task.status === "running" && now - Date.parse(task.updated_at) > SILENT_MS;
}

/** Whether a task was made by the demo fleet. */
export function isDemo(task) {
  return task.metadata?.demo === true;
}

/** A task's name as it is shown: of a demo task without the mark that the badge repeats. */
export function nameOf(task) {
  return unmarked(task, task.name ?? task.task_id);
}

/** The name of a task's agent as it is shown. */
export function agentOf(task) {
  return unmarked(task, task.agent ?? "");
}

function unmarked(task, text) {
  return isDemo(task) ? text.replace(/^demo: /, "") : text;
}

function newestFirst(a, b) {
  return descending(a.created_at, b.created_at) || descending(a.task_id, b.task_id);
}

function latestEndFirst(a, b) {
  return descending(a.updated_at, b.updated_at) || descending(a.task_id, b.task_id);
}

function descending(a, b) {
  return a === b ? 0 : a < b ? 1 : -1;
}

function mentions(task, words) {
  const texts = [task.task_id, task.name, task.agent, task.agent_type, task.model, task.error].filter(Boolean).map((text) => text.toLowerCase());
  return words.every((word) => texts.some((text) => text.includes(word)));
}

function lastLine(output) {
  const end = output.length > LATEST_RAW ? output.slice(-LATEST_RAW) : output;
  const lines = plain(end).trimEnd().split("\n");
  return lines[lines.length - 1].trim().slice(0, LATEST_CHARS);
}
