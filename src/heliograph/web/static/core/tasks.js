/* The fleet as the service knows it: pages of tasks for a filter, their counts, and what streams tell on top.

   What a filter finds, how many that is and what comes on the next page are the service's answers; the page
   moves tasks and counts at once by what it hears, and asks again for the counts a little later. Of every task the streams
   carry changes of status, descriptions and costs. Of output they carry the newest line of each task now and then, the more
   seldom the more tasks run, and of those in view once a second: so a tab hears no more than can be read. No DOM here. */

import { paths } from "./api.js";
import { Fleet, isQuiet, passing, SILENT_MS } from "./fleet.js";
import { older } from "./ids.js";
import { QUESTION, wordsOf } from "./question.js";
import { backoff } from "./streams.js";
import { STATUSES, TERMINAL } from "./task.js";

const FIRST = { failed: 25, lost: 25, waiting_input: 50, running: 200, queued: 50, completed: 50, cancelled: 25 };
const MORE = 100;
const FETCHES = 4; // unsure tasks fetched at a time
const GLIMPSES = 40; // running tasks whose last line is fetched at the start
const MOST_WANTED = 300; // of them that wait for it
const MOST_QUESTIONS = 200; // the newest of the waiting tasks
const LATER_MS = 2_000;
const COUNT_MS = 3_000;
const SILENCE_MS = 30_000; // it comes without a message
const SILENT = 50; // tasks that are silent for long, at first
const MOST_SILENT = 500;
const GROUPS = 100;
const FILLED_GROUPS = 30; // of which the newest tasks are fetched
const FIRST_OF_GROUP = 20;
const LATEST_SECONDS = [1, 2, 5, 10, 30]; // between two lines of a task
const LATEST_RATE = 30; // of such lines a second that are enough
const MOST_IN_VIEW = 40; // tasks whose lines are heard once a second

/** How seldom the newest line of each of so many running tasks is to be heard, in seconds. */
export function seldom(running) {
  return LATEST_SECONDS.find((seconds) => running / seconds <= LATEST_RATE) ?? LATEST_SECONDS[LATEST_SECONDS.length - 1];
}

export class Tasks {
  /** Whether there has been an answer. */
  known = false;
  /** How many tasks of each status pass the filter. */
  counts = Object.fromEntries(STATUSES.map((status) => [status, 0]));
  /** How many tasks of each status there are without a filter. */
  totals = this.counts;
  /** How many of the running tasks that pass the filter are silent for long. */
  silent = 0;
  /** Groups of the tasks that pass the filter, the one with the newest task first: `{name, counts}`, the name "" for the tasks that say none; null: not known. */
  groups = null;
  /** How many groups are wanted. */
  wantedGroups = GROUPS;
  /** Whether the service has more groups than these. */
  moreGroups = false;
  /** Events heard since this was last set to 0. */
  received = 0;
  filter = {};
  group = "";

  #passes = passing({});
  #next = {}; // by status: cursor of the next page, null when all are loaded
  #turn = 0; // counts snapshots: what belongs to an older one is ignored
  #attempts = 0;
  #subscriptions = [];
  #latest = { every: 0, subscription: null };
  #inView = new Map(); // task id → subscription
  #wanted = [];
  #fetching = 0;
  #counting = null; // timer
  #quiet = new Set(); // ids of the tasks that are silent for long
  #ofGroups = new Map(); // status and name of a group → cursor of the next page of its tasks, null when all are loaded

  /**
   * @param {object} options
   * @param {import("./api.js").Api} options.api
   * @param {import("./streams.js").Streams} options.streams
   * @param {() => void} options.changed there is something to draw
   * @param {(problem: Error) => void} options.failed
   * @param {(text: string) => void} options.notice for the reader, of events that were left out
   * @param {(task: object, before: string|null) => void} options.moved a task has another status
   */
  constructor({ api, streams, changed, failed, notice, moved }) {
    Object.assign(this, { api, streams, changed, failed, notice });
    this.fleet = new Fleet({
      fetch: (id, later) => (later ? setTimeout(() => this.#fetch(id), LATER_MS) : this.#fetch(id)),
      moved: (task, before) => {
        this.#moved(task, before);
        moved(task, before);
      },
    });
  }

  /** Ask for another filter: fields of a task, `text`, and `sort`; and for groups by a field. */
  narrow(filter, group = "") {
    const same = JSON.stringify(filter) === JSON.stringify(this.filter);
    if (same && group === this.group) return;
    Object.assign(this, { filter, group, groups: null, moreGroups: false });
    this.#ofGroups.clear();
    this.wantedGroups = GROUPS;
    this.#passes = passing(filter);
    if (!this.known) return;
    if (!same) this.#load().catch(this.failed);
    this.#loadGroups().catch(this.failed);
  }

  /** Take a new snapshot and go on live from it. */
  async begin() {
    const turn = ++this.#turn;
    this.#unsubscribe();
    let cursor;
    try {
      cursor = await this.#load(true);
    } catch (problem) {
      if (turn !== this.#turn) return;
      this.failed(problem);
      if (!problem.needsKey) setTimeout(() => turn === this.#turn && this.begin(), backoff(this.#attempts++, Math.random()));
      return;
    }
    if (turn !== this.#turn) return;
    this.#attempts = 0;
    const on = {
      message: (message) => this.#take(message),
      gap: ({ count, reason }) => this.#anew(`The stream left out ${count ?? "some"} events (${reason}); the list was loaded anew.`),
      reset: ({ reason }) => this.#anew(`The stream could not be resumed (${reason}); the list was loaded anew.`),
    };
    this.#subscriptions = ["task.status", "task.created", "task.cost", QUESTION].map((topic) => this.streams.subscribe({ channel: "task:*", topic, after: cursor }, on));
    this.#hearLatest();
    this.#loadGroups().catch(this.failed);
    this.#listen(turn);
    this.#glimpse(turn).catch(() => {}); // the next lines come anyway
  }

  /** Hear the lines of these tasks, which are in view, once a second. */
  watch(ids) {
    const wanted = new Set(this.#latest.every > LATEST_SECONDS[0] ? ids.slice(0, MOST_IN_VIEW) : []);
    for (const [id, subscription] of this.#inView) {
      if (wanted.has(id)) continue;
      subscription.cancel();
      this.#inView.delete(id);
    }
    for (const id of wanted) {
      if (!this.#inView.has(id)) this.#inView.set(id, this.#lines(`task:${id}`, LATEST_SECONDS[0]));
    }
  }

  /** Whether the service has more of a status than is loaded. */
  hasMore(status) {
    return this.#next[status] != null;
  }

  /** Load the next page of a status; `silent`: of those that are silent for long. */
  async more(status) {
    if (status === "silent") return this.#loadSilent(this.#quiet.size + MORE);
    const cursor = this.#next[status];
    if (cursor == null) return;
    await this.#page(status, { limit: MORE, cursor });
    this.changed();
  }

  /** Load the next page of a group's tasks, of one status or (empty) of any. */
  async moreOf(name, status = "", limit = MORE) {
    const { filter, group } = this;
    const key = `${status} ${name}`;
    const cursor = this.#ofGroups.get(key);
    if (cursor === null) return;
    const of = name ? { [group]: name } : { without: group };
    const { tasks, meta } = await this.api.get(paths.tasks, { ...filter, ...of, status, limit, cursor });
    if (filter !== this.filter || group !== this.group) return;
    this.#ofGroups.set(key, meta.next_cursor);
    this.fleet.merge(tasks);
    this.changed();
  }

  /** Load more groups. */
  async groupsBehind() {
    this.wantedGroups += GROUPS;
    await this.#loadGroups();
  }

  /* The first page of every status, all of one filter; returns from where the stream has to go on. */
  async #load(anew = false) {
    const { filter } = this;
    const pages = await Promise.all(STATUSES.map((status) => this.#ask(status, { limit: FIRST[status], counts: status === "running" })));
    if (filter !== this.filter) return anew ? this.#load(true) : null;
    if (anew) this.fleet.clear();
    this.#loadSilent().catch(() => {}); // it is asked again
    STATUSES.forEach((status, i) => this.#show(status, pages[i]));
    this.#count(pages[STATUSES.indexOf("running")].meta.counts);
    this.known = true;
    this.changed();
    return pages.map((page) => page.meta.stream_cursor).reduce(older);
  }

  async #loadSilent(limit = Math.max(SILENT, this.#quiet.size)) {
    const { filter } = this;
    const query = { status: "running", silent: SILENT_MS / 1000, counts: true, limit: Math.min(limit, MOST_SILENT), sort: filter.sort || "silence" };
    const { tasks, meta } = await this.api.get(paths.tasks, { ...filter, ...query });
    if (filter !== this.filter) return;
    this.silent = meta.counts.running;
    this.#quiet = new Set(tasks.map(({ task_id }) => task_id));
    this.fleet.merge(tasks);
    this.fleet.silence(this.#quiet);
    this.changed();
  }

  /* As many groups as are wanted; then the newest tasks of the first ones, one after the other. */
  async #loadGroups() {
    const { filter, group } = this;
    if (!group) return;
    const { sort: _, ...narrowing } = filter;
    const found = [];
    let cursor = null;
    do {
      const page = await this.api.get(paths.groups, { ...narrowing, by: group, limit: GROUPS, cursor });
      if (filter !== this.filter || group !== this.group) return;
      found.push(...page.groups.map(({ name, tasks }) => ({ name: name ?? "", counts: tasks })));
      cursor = page.meta.next_cursor;
    } while (cursor !== null && found.length < this.wantedGroups);
    Object.assign(this, { groups: found, moreGroups: cursor !== null });
    this.fleet.dirty = true;
    this.changed();
    for (const { name } of found.slice(0, FILLED_GROUPS)) {
      if (filter !== this.filter || group !== this.group) return;
      if (!this.#ofGroups.has(` ${name}`)) await this.moreOf(name, "", FIRST_OF_GROUP);
    }
  }

  /* Ask for what comes without a message, until the next snapshot. */
  #listen(turn) {
    setTimeout(() => {
      if (turn !== this.#turn) return;
      this.#loadSilent().catch(() => {}); // it is asked again
      this.#listen(turn);
    }, SILENCE_MS);
  }

  async #page(status, query) {
    const { filter } = this;
    const page = await this.#ask(status, query);
    if (filter === this.filter) this.#show(status, page);
  }

  #ask(status, query) {
    const sort = this.filter.sort || (TERMINAL.has(status) ? "updated" : null);
    return this.api.get(paths.tasks, { ...this.filter, status, ...query, sort });
  }

  #show(status, page) {
    this.#next[status] = page.meta.next_cursor;
    this.fleet.merge(page.tasks);
  }

  #count(counts) {
    this.counts = { ...counts };
    if (Object.entries(this.filter).some(([name, value]) => value && name !== "sort")) return;
    this.totals = this.counts;
    if (this.#subscriptions.length) this.#hearLatest();
  }

  #lines(channel, every, subscribed) {
    return this.streams.subscribe({ channel, topic: "task.output", every }, { message: (message) => this.#take(message), subscribed });
  }

  #hearLatest() {
    const every = seldom(this.totals.running);
    if (every === this.#latest.every) return;
    this.#latest.subscription?.cancel();
    // What began with a line while nobody listened is known to the service alone.
    const catchUp = () => this.#load().catch(() => {});
    this.#latest = { every, subscription: this.#lines("task:*", every, catchUp) };
  }

  #unsubscribe() {
    this.watch([]);
    for (const one of this.#subscriptions) one.cancel();
    this.#subscriptions = [];
    this.#latest.subscription?.cancel();
    this.#latest = { every: 0, subscription: null };
  }

  #anew(notice) {
    this.notice(notice);
    this.begin();
  }

  #take(message) {
    this.received += 1;
    const known = this.fleet.get(message.channel.slice("task:".length));
    if (known && message.seq > known.last_seq && isQuiet(known, this.api.now()) && this.#passes(known)) {
      this.silent = Math.max(0, this.silent - 1);
      this.#recount();
    }
    this.fleet.take(message);
    this.changed();
  }

  /* Counts follow at once, and are asked for again a little later. */
  #moved(task, before) {
    if (before !== undefined && this.#passes(task)) {
      if (before !== null) this.counts[before] -= 1;
      this.counts[task.status] += 1;
    }
    if (this.known) this.#recount();
  }

  #recount() {
    this.#counting ??= setTimeout(async () => {
      this.#counting = null;
      const { filter } = this;
      try {
        const { meta } = await this.api.get(paths.tasks, { ...filter, counts: true, limit: 1 });
        if (filter === this.filter) this.#count(meta.counts);
        if (this.silent) await this.#loadSilent();
        await this.#loadGroups();
      } catch {
        // the next change asks again
      }
      this.changed();
    }, COUNT_MS);
  }

  /* What the running tasks in view said last, so that the list speaks before the next line comes. */
  async #glimpse(turn) {
    const { waiting_input, running } = this.fleet.sections(this.filter);
    this.#questions(waiting_input.slice(0, GLIMPSES)).catch(() => {}); // they stand in the tasks' views as well
    for (const { task_id } of [...waiting_input, ...running].slice(0, GLIMPSES)) {
      if (turn !== this.#turn) return;
      const { lines } = await this.api.get(paths.log(task_id), { tail: 1 });
      if (lines.length) this.fleet.glimpse(task_id, lines[0].output);
      this.changed();
    }
  }

  /* What the waiting tasks have asked. */
  async #questions(waiting) {
    if (!waiting.length) return;
    const channel = waiting.map(({ task_id }) => `task:${task_id}`);
    const { events } = await this.api.get(paths.events, { channel, topic: QUESTION, limit: MOST_QUESTIONS });
    for (const event of events) this.fleet.ask(event.channel.slice("task:".length), wordsOf(event.payload));
    this.changed();
  }

  /* A task that is unsure: fetched, a few at a time. */
  async #fetch(id) {
    if (this.#wanted.length >= MOST_WANTED) return this.fleet.forget(id);
    this.#wanted.push(id);
    if (this.#fetching >= FETCHES) return;
    this.#fetching += 1;
    for (let next = this.#wanted.shift(); next !== undefined; next = this.#wanted.shift()) {
      try {
        this.fleet.merge([await this.api.get(paths.task(next))]);
      } catch {
        setTimeout(() => this.fleet.forget(next), LATER_MS); // its next message asks again
      }
      this.changed();
    }
    this.#fetching -= 1;
  }
}
