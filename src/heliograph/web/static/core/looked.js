/* What ended since the reader looked away. No DOM here. */

export class Looked {
  /** When the reader looked away, null while they look and nothing is left to tell. */
  since = null;
  /** Ids of tasks by the status they ended in, while nobody looked. */
  ended = { failed: [], completed: [], cancelled: [] };

  #away = false;

  /** The reader looked away (or came back) at a moment. */
  turn(away, now) {
    this.#away = away;
    if (away) {
      this.since ??= now;
    } else if (!Object.values(this.ended).some((ids) => ids.length)) {
      this.since = null;
    }
  }

  /** A task has another status. */
  moved({ task_id, status }) {
    if (this.#away && this.ended[status] && !this.ended[status].includes(task_id)) this.ended[status].push(task_id);
  }

  /** The reader knows it now. */
  forget() {
    for (const ids of Object.values(this.ended)) ids.length = 0;
    this.since = this.#away ? this.since : null;
  }
}
