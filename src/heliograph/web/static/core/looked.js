/* What ended since the reader looked away. No DOM here. */

const MOST = 10_000;

export class Looked {
  /** When the reader looked away, null while they look and nothing is left to tell. */
  since = null;
  /** Ids of tasks by the status they ended in, while nobody looked; of so many that nobody counts them, some. */
  ended = { failed: new Set(), lost: new Set(), completed: new Set(), cancelled: new Set() };

  #away = false;

  /** The reader looked away (or came back) at a moment. */
  turn(away, now) {
    this.#away = away;
    if (away) {
      this.since ??= now;
    } else if (!Object.values(this.ended).some((ids) => ids.size)) {
      this.since = null;
    }
  }

  /** A task has another status. */
  moved({ task_id, status }) {
    if (this.#away && this.ended[status]?.size < MOST) this.ended[status].add(task_id);
  }

  /** The reader knows it now. */
  forget() {
    for (const ids of Object.values(this.ended)) ids.clear();
    this.since = this.#away ? this.since : null;
  }
}
