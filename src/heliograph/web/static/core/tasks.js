/* The tasks of the fleet, kept live: one snapshot, then what streams tell.

   The newest tasks are fetched once, and whatever is not finished however old it is; then the channel pattern
   `task:*` goes on from the snapshot's cursor. No DOM here. */

import { paths } from "./api.js";
import { Fleet } from "./fleet.js";
import { backoff } from "./streams.js";

const PAGE = 500;
const PAGES_AT_START = 4;
const FETCHES = 4; // unknown tasks fetched at a time
const GLIMPSES = 40; // running tasks whose last line is fetched at the start

export class Tasks {
  /** Cursor of the next older page, null when all are loaded. */
  older = null;
  /** Whether there has been an answer. */
  known = false;
  /** Events heard since this was last set to 0. */
  received = 0;

  #beginning = 0; // counts snapshots: what belongs to an older one is ignored
  #attempts = 0;
  #subscription = null;
  #wanted = [];
  #fetching = 0;

  /**
   * @param {object} options
   * @param {import("./api.js").Api} options.api
   * @param {import("./streams.js").Streams} options.streams
   * @param {() => void} options.changed there is something to draw
   * @param {(problem: Error) => void} options.failed
   * @param {(text: string) => void} options.notice for the reader, of events that were left out
   */
  constructor({ api, streams, changed, failed, notice }) {
    Object.assign(this, { api, streams, changed, failed, notice });
    this.fleet = new Fleet((id) => this.#fetch(id));
  }

  /** Take a new snapshot and go on live from it. */
  async begin() {
    const turn = ++this.#beginning;
    this.#subscription?.cancel();
    this.#subscription = null;
    let page;
    try {
      page = await this.api.get(paths.tasks, { limit: PAGE });
    } catch (problem) {
      if (turn !== this.#beginning) return;
      this.failed(problem);
      if (!problem.needsKey) setTimeout(() => turn === this.#beginning && this.begin(), backoff(this.#attempts++, Math.random()));
      return;
    }
    if (turn !== this.#beginning) return;
    this.#attempts = 0;
    this.known = true;
    this.fleet.clear();
    this.fleet.merge(page.tasks);
    this.older = page.meta.next_cursor;
    this.#subscription = this.streams.subscribe(
      { channel: "task:*", after: page.meta.stream_cursor },
      {
        message: (message) => this.#take(message),
        gap: ({ count, reason }) => this.#anew(`The stream left out ${count ?? "some"} events (${reason}); the list was loaded anew.`),
        reset: ({ reason }) => this.#anew(`The stream could not be resumed (${reason}); the list was loaded anew.`),
      },
    );
    this.changed();
    try {
      await this.#loadActive(turn);
      await this.#loadLatest(turn);
      for (let i = 1; i < PAGES_AT_START && this.older && turn === this.#beginning; i++) await this.loadOlder();
    } catch (problem) {
      if (turn === this.#beginning) this.failed(problem);
    }
  }

  async loadOlder() {
    const turn = this.#beginning;
    const page = await this.api.get(paths.tasks, { limit: PAGE, cursor: this.older });
    if (turn !== this.#beginning) return;
    this.fleet.merge(page.tasks);
    this.older = page.meta.next_cursor;
    this.changed();
  }

  /** Have the service find what is not loaded. */
  async search(text) {
    this.fleet.merge((await this.api.get(paths.tasks, { text, limit: 100 })).tasks);
    this.changed();
  }

  #anew(notice) {
    this.notice(notice);
    this.begin();
  }

  #take(message) {
    this.received += 1;
    this.fleet.take(message);
    this.changed();
  }

  /* What is not finished must be in the list however old it is. */
  async #loadActive(turn) {
    let cursor = this.older && "";
    while (cursor !== null && turn === this.#beginning) {
      const page = await this.api.get(paths.tasks, { status: "running,waiting_input,queued", limit: PAGE, cursor });
      if (turn !== this.#beginning) return;
      this.fleet.merge(page.tasks);
      cursor = page.meta.next_cursor;
      this.changed();
    }
  }

  /* What the running tasks in view said last, so that the list speaks before the next line comes. */
  async #loadLatest(turn) {
    for (const { task_id } of this.fleet.sections({ text: "", agent: "" }).running.slice(0, GLIMPSES)) {
      if (turn !== this.#beginning) return;
      const { lines } = await this.api.get(paths.log(task_id), { tail: 1 });
      if (lines.length) this.fleet.glimpse(task_id, lines[0].output);
      this.changed();
    }
  }

  /* A task that the stream speaks of and the list does not have: fetched, a few at a time. */
  async #fetch(id) {
    this.#wanted.push(id);
    if (this.#fetching >= FETCHES) return;
    this.#fetching += 1;
    for (let next = this.#wanted.shift(); next !== undefined; next = this.#wanted.shift()) {
      try {
        this.fleet.merge([await this.api.get(paths.task(next))]);
      } catch {
        setTimeout(() => this.fleet.forget(next), 2_000); // its next message asks again
      }
      this.changed();
    }
    this.#fetching -= 1;
  }
}
