/* Every task the page knows, folded live.

   Snapshot, then tail: pages of tasks are merged in, messages are folded on top, and each task's `seq`
   (1, 2, 3, … without holes) decides what is new. So pages may come in any order, be older or newer than
   the stream, or come twice. A message that does not follow directly on what is known of its task means
   the task must be fetched; until it is, its messages wait. No DOM here. */

import { firstSeen, fold, STATUSES, TERMINAL } from "./task.js";
import { plain } from "./terminal.js";

const MAX_TASKS = 20_000;
const MAX_WAITING = 5_000;
const LATEST_CHARS = 240;

export class Fleet {
  /** Grows whenever the set of tasks, a status or a description changed: time to sort and filter anew. */
  version = 0;
  /** Set when anything to be shown changed; whoever draws resets it. */
  dirty = false;

  #tasks = new Map();
  #waiting = new Map(); // task id → messages that came before the task was fetched
  #sorted = null;

  /** @param {(id: string) => void} fetchTask asked once per unknown task; answer with `merge` or `forget` */
  constructor(fetchTask) {
    this.fetchTask = fetchTask;
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
    this.#waiting.clear();
    this.#changed();
  }

  /** Take in tasks as the service lists them. What is already known further on stays. */
  merge(tasks) {
    for (const task of tasks) {
      const known = this.#tasks.get(task.task_id);
      if (known && known.last_seq >= task.last_seq) continue;
      // A list needs no inputs and results, and they may be a megabyte each.
      this.#tasks.set(task.task_id, { ...task, input: null, result: null, latest: known?.latest ?? "" });
      const waiting = this.#waiting.get(task.task_id);
      this.#waiting.delete(task.task_id);
      for (const message of waiting ?? []) this.take(message);
    }
    this.#changed();
  }

  /** Drop what waited for a task that could not be fetched. */
  forget(id) {
    this.#waiting.delete(id);
  }

  /** Take in the last output of a task whose messages have not said any yet. */
  glimpse(id, output) {
    const task = this.#tasks.get(id);
    if (!task || task.latest) return;
    task.latest = lastLine(output);
    this.dirty = true;
  }

  /** Fold one message of the stream. */
  take(message) {
    const id = message.channel.slice("task:".length);
    const waiting = this.#waiting.get(id);
    if (waiting) {
      if (waiting.length < MAX_WAITING) waiting.push(message);
      return;
    }
    let task = this.#tasks.get(id);
    if (!task && message.seq === 1) {
      task = { ...firstSeen(message), latest: "" };
      this.#tasks.set(id, task);
      this.#changed();
    }
    if (task && message.seq <= task.last_seq) return;
    if (!task || message.seq !== task.last_seq + 1) {
      this.#waiting.set(id, [message]);
      this.fetchTask(id);
      return;
    }
    const status = task.status;
    fold(task, message);
    if (message.type === "task_output") hear(task, message);
    task.result = null;
    if (task.status !== status || message.type === "event") this.#changed();
    this.dirty = true;
  }

  #changed() {
    if (this.#tasks.size > MAX_TASKS) this.#shed();
    this.version += 1;
    this.dirty = true;
    this.#sorted = null;
  }

  /* Past the bound the oldest finished tasks go; they are still in the service's own list. */
  #shed() {
    const finished = [...this.#tasks.values()].filter((task) => TERMINAL.has(task.status)).sort(newestFirst);
    for (const task of finished.slice(Math.floor(MAX_TASKS * 0.9))) this.#tasks.delete(task.task_id);
  }

  /** All tasks, newest first. */
  sorted() {
    this.#sorted ??= [...this.#tasks.values()].sort(newestFirst);
    return this.#sorted;
  }

  /** Names of all agents, for the filter. */
  agents() {
    return [...new Set(this.sorted().map((task) => task.agent).filter(Boolean))].sort();
  }

  /** How many tasks have each status. */
  totals() {
    const totals = Object.fromEntries(STATUSES.map((status) => [status, 0]));
    for (const task of this.#tasks.values()) totals[task.status] += 1;
    return totals;
  }

  /**
   * The tasks that pass a filter, by status, newest first.
   *
   * @param {{text: string, agent: string}} filter empty: everything passes
   * @returns {Object<string, object[]>}
   */
  sections({ text, agent }) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const sections = Object.fromEntries(STATUSES.map((status) => [status, []]));
    for (const task of this.sorted()) {
      if (agent && task.agent !== agent) continue;
      if (words.length && !mentions(task, words)) continue;
      sections[task.status].push(task);
    }
    return sections;
  }
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
  if (a.created_at !== b.created_at) return a.created_at < b.created_at ? 1 : -1;
  return a.task_id < b.task_id ? 1 : -1;
}

function mentions(task, words) {
  const text = [task.name, task.task_id, task.agent, task.agent_type, task.model, task.error].join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}

/* Keep the latest line of a task, put together where it comes in pieces (see loglines.js). */
function hear(task, { output, stream = "stdout", partial, rewind }) {
  const goesOn = task.open?.stream === stream && rewind !== true;
  const line = goesOn ? task.open.line + output : output;
  task.open = partial === true ? { stream, line: line.slice(-4 * LATEST_CHARS) } : null;
  task.latest = lastLine(line) || task.latest;
}

function lastLine(output) {
  const end = output.slice(-4 * LATEST_CHARS);
  const lines = plain(end).trimEnd().split("\n");
  return lines[lines.length - 1].trim().slice(0, LATEST_CHARS);
}
