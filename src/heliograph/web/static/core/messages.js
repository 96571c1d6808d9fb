/* The messages of a conversation, as they were fetched and as they come.

   A message comes whole, or grows by deltas; one may say `rewind`, and then begins anew. What was fetched knows the last
   event in it, so that pieces are joined without a hole and none twice. No DOM here. */

import { isAfter } from "./ids.js";

export class Messages {
  /** Messages in the order in which they began: `{id, role, content, task_id, created_at, growing, last}`. */
  list = [];

  #byId = new Map();

  /** Take in messages as the service gives them. */
  merge(messages, growing = false) {
    for (const { message_id, role, content, task_id, created_at, last_event_id } of messages) {
      const known = this.#byId.get(message_id);
      if (known && isAfter(known.last, last_event_id)) continue;
      this.#put({ id: message_id, role, content, task_id, created_at, growing, last: last_event_id });
    }
    this.#sort();
  }

  /** Take one event of the conversation's channel; tells whether it was about a message. */
  take({ id, topic, timestamp, payload }) {
    if (topic === "conversation.cleared") {
      this.list = [];
      this.#byId.clear();
      return true;
    }
    if (topic !== "conversation.message" && topic !== "conversation.delta") return false;
    const { message_id, content, task_id = null } = payload;
    const known = this.#byId.get(message_id);
    if (known && !isAfter(id, known.last)) return false;
    if (topic === "conversation.delta" && known && !known.growing) return false;
    const whole = topic === "conversation.message";
    this.#put({
      id: message_id,
      role: payload.role ?? known?.role ?? "assistant",
      content: whole || payload.rewind ? content : (known?.content ?? "") + content,
      task_id: task_id ?? known?.task_id ?? null,
      created_at: known?.created_at ?? timestamp,
      growing: !whole && payload.done !== true,
      last: id,
    });
    return true;
  }

  /** Keep this many of the newest; tells whether there were more. */
  keep(most) {
    const gone = this.list.splice(0, Math.max(0, this.list.length - most));
    for (const { id } of gone) this.#byId.delete(id);
    return gone.length > 0;
  }

  #put(message) {
    const known = this.#byId.get(message.id);
    if (known) Object.assign(known, message);
    else {
      this.#byId.set(message.id, message);
      this.list.push(message);
    }
  }

  #sort() {
    this.list.sort((a, b) => (a.created_at === b.created_at ? 0 : a.created_at < b.created_at ? -1 : 1));
  }
}
