/* One subscription as its view sees it: every event once, in the order of its channel.

   All subscriptions of a page share a WebSocket, and those of all its tabs may share one, so an event that
   several of them watch comes several times, and may come by another's copy before it comes by one's own.
   Three rules put that right.

   - A listener to one whole channel that knows the channel's last `seq` is handed `seq + 1` and nothing else:
     what comes early waits for its turn. A newer event with a lower `seq` is of a channel that the service had
     forgotten, and that begins anew: to its listener that is a reset.
   - One that asked for the newest only (`every`) is handed whatever comes.
   - Any other listener is handed the first copy. Its cursor, from where it resumes, moves only when the last
     copy has come: then its own stream has certainly passed that event, and all before it.

   No DOM here. */

import { isAfter } from "./ids.js";

const MAX_EARLY = 20_000;

export class Listener {
  #copies = new Map(); // id → copies that have come, of events beyond the cursor
  #early = new Map(); // seq → message

  /**
   * @param {object} wanted
   * @param {string} wanted.channel a channel or a pattern
   * @param {string} [wanted.topic] a topic, a pattern such as `run.*`, or `*`
   * @param {string|null} [wanted.after] cursor to go on from; null begins with what is new
   * @param {number|null} [wanted.seq] of the channel's last event that is known
   * @param {string|null} [wanted.last] that event's id
   * @param {number} [wanted.every] seconds: of each channel only the newest event per so long
   * @param {object} on `message`, `gap` and `reset` take a message of the service; `subscribed` is told whenever
   *   the subscription begins or goes on
   */
  constructor({ channel, topic = "*", after = null, seq = null, last = null, every = 0 }, on) {
    Object.assign(this, { channel, topic, cursor: after, seq, last, every, on });
    this.key = `${channel} ${topic} ${every}`;
  }

  /** Whether an event is of this subscription. */
  covers({ channel, type, topic = TOPICS[type] }) {
    if (this.channel !== "*" && this.channel !== channel) {
      if (!this.channel.endsWith(":*") || !channel.startsWith(this.channel.slice(0, -1))) return false;
    }
    if (this.topic === "*" || this.topic === topic) return true;
    return this.topic.endsWith(".*") && topic.startsWith(this.topic.slice(0, -1));
  }

  /** Take one copy of an event, of which `copies` come in all. */
  take(message, copies) {
    if (this.every) return this.on.message(message);
    if (this.cursor !== null && !isAfter(message.id, this.cursor)) return;
    if (this.seq !== null) this.#inOrder(message);
    else this.#once(message, copies);
  }

  /** Take word of events that are not given. */
  gap(message) {
    if (message.to && (this.cursor === null || isAfter(message.to, this.cursor))) this.cursor = message.to;
    this.#forget();
    this.on.gap?.(message);
  }

  /** Take word that the stream goes on without what came before. */
  reset(message) {
    this.cursor = message.head ?? this.cursor;
    this.#forget();
    this.on.reset?.(message);
  }

  #forget() {
    this.seq = null;
    this.#early.clear();
    this.#copies.clear();
  }

  #inOrder(message) {
    if (message.seq <= this.seq) {
      if (this.last !== null && isAfter(message.id, this.last)) this.reset({ channel: this.channel, reason: "the channel began anew" });
      return;
    }
    this.#early.set(message.seq, message);
    for (let next; (next = this.#early.get(this.seq + 1)); ) {
      this.#early.delete(next.seq);
      this.seq = next.seq;
      this.cursor = this.last = next.id;
      this.on.message(next);
    }
    if (this.#early.size > MAX_EARLY) this.gap({ channel: this.channel, count: null, reason: "events out of order" });
  }

  #once(message, copies) {
    const { id } = message;
    const seen = this.#copies.get(id) ?? 0;
    if (seen + 1 < copies) {
      this.#copies.set(id, seen + 1);
    } else {
      this.cursor = id;
      for (const early of this.#copies.keys()) if (!isAfter(early, id)) this.#copies.delete(early);
    }
    if (seen === 0) this.on.message(message);
  }
}

const TOPICS = { task_output: "task.output", task_status: "task.status" };
