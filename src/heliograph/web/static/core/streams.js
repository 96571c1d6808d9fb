/* Every stream of the page over one WebSocket, which goes on where it was.

   Each subscription knows its own cursor (see listener.js). Whenever the connection ends it comes back after a
   jittered, growing delay and subscribes anew from there, so nothing is missed and nothing comes twice.
   Subscriptions to the same thing are one for the service: it goes on from the oldest cursor among them. The
   service may ask to come back later (`reconnect`), say that a cursor is too old (`reset`: whoever listens takes
   a new snapshot), be unable to subscribe now (`unavailable`: as after a lost connection), or close for good
   (codes 4500–4999).

   The state is honest: a connection that is quiet for some seconds is asked for a `pong`, and given up if none
   comes. So is one at the moment when the network comes or goes, or the machine wakes; what tells of a sleep is
   that a timer is late. No DOM here; the socket and the clock are handed in. */

import { older } from "./ids.js";
import { Listener } from "./listener.js";

const OPEN_MS = 10_000;
const QUIET_MS = 6_000;
const PONG_MS = 4_000;
const TICK_MS = 1_000;
const LATE_MS = 4_000; // a tick that is so late tells of a sleep, or of a page that was busy
const IDLE_MS = 5_000; // a connection without a subscription is kept so long
const GIVE_UP_HOPE = 3; // failed attempts until "reconnecting" is called "offline"

/** Milliseconds to wait before an attempt: doubling from half a second to 15 seconds, half of it random. */
export function backoff(attempt, random) {
  const ceiling = Math.min(15_000, 500 * 2 ** attempt);
  return ceiling / 2 + random * (ceiling / 2);
}

/** What a close code means: `retry`, `key` (a better key is needed) or `stop` (do not come back). */
export function verdict(code) {
  if (code === 4500) return "key";
  return code >= 4500 && code <= 4999 ? "stop" : "retry";
}

export class Streams {
  /** `name` is idle, connecting, live, reconnecting, offline or stopped; `since` when it is not live, `next` the
      moment of the next attempt (milliseconds of the clock, or null). */
  state = { name: "idle", since: null, next: null };

  #listeners = new Set();
  #refused = new Set(); // keys of subscriptions that the service did not make
  #turn = 0; // counts connections, so that what belongs to an old one is ignored
  #socket = null;
  #opened = false;
  #attempt = 0;
  #timer = null; // of the next attempt
  #ticker = null; // of the watch over the connection
  #delay = null;
  #heard = 0;
  #asked = null; // when a pong was asked for
  #idleSince = null;

  /**
   * @param {object} options
   * @param {() => Promise<WebSocket>} options.connect makes a socket; may reject
   * @param {object} options.on `state` takes the new state; `problem` a message; `refused` takes the verdict
   *   `key` or `stop` and the close code; `failed` is told of an attempt that got no connection
   * @param {object} [options.clock] `now`, `setTimeout`, `clearTimeout`
   * @param {() => number} [options.random]
   */
  constructor({ connect, on, clock = browserClock, random = Math.random }) {
    Object.assign(this, { connect, on, clock, random });
  }

  /**
   * Listen; see `Listener` for the arguments.
   *
   * @returns {{cancel: () => void}}
   */
  subscribe(wanted, on) {
    const listener = new Listener(wanted, on);
    this.#listeners.add(listener);
    this.#idleSince = null;
    if (this.#opened) this.#ask(listener.key);
    else if (this.state.name === "idle") this.#open();
    return { cancel: () => this.#cancel(listener) };
  }

  /** Try at once if it is waiting to, else find out at once whether the connection still is one. */
  wake() {
    if (this.#opened) this.#ping();
    else if (!this.#socket && this.#timer !== null) this.#open();
  }

  /** Begin again after it was stopped: there is a better key. */
  restart() {
    this.#end("idle");
    this.#attempt = 0;
    if (this.#listeners.size) this.#open();
  }

  /** End the connection and all attempts, for now. */
  stop() {
    this.#end("stopped");
  }

  // --- subscriptions ---------------------------------------------------------------------------

  /* Subscribing again begins anew from the cursor, so this also serves one more listener to the same thing. */
  #ask(key) {
    const listeners = [...this.#listeners].filter((one) => one.key === key);
    const { channel, topic, every } = listeners[0];
    this.#refused.delete(key);
    const cursors = listeners.map((one) => one.cursor).filter((cursor) => cursor !== null);
    const message = { type: "subscribe", channel, ref: key };
    if (topic !== "*") message.topic = topic;
    if (every) message.every = every;
    if (cursors.length && !every) message.after = cursors.reduce(older);
    this.#send(message);
  }

  #cancel(listener) {
    if (!this.#listeners.delete(listener)) return;
    const { channel, topic, every, key } = listener;
    if ([...this.#listeners].some((one) => one.key === key)) return;
    this.#refused.delete(key);
    if (this.#opened) {
      this.#send({ type: "unsubscribe", channel, ...(topic !== "*" && { topic }), ...(every && { every }) });
    }
    if (!this.#listeners.size) this.#idleSince = this.clock.now();
  }

  #receive(message) {
    this.#heard = this.clock.now();
    this.#asked = null;
    switch (message.type) {
      case "subscribed":
        this.#become("live");
        for (const one of [...this.#listeners]) if (one.key === message.ref) one.on.subscribed?.();
        break;
      case "gap":
      case "reset":
        for (const one of [...this.#listeners]) if (one.channel === message.channel) one[message.type](message);
        break;
      case "reconnect":
        this.#delay = message.after_ms;
        this.#socket.close();
        break;
      case "error":
        if (message.ref != null) this.#refused.add(message.ref);
        this.on.problem(message);
        if (message.code === "unavailable") this.#socket.close(); // nothing is subscribed then, if it ever was
        break;
      default:
        if (message.id === undefined) break;
        this.#attempt = 0; // not before: after `subscribed` may still come `unavailable`
        this.#hand(message);
    }
  }

  #hand(message) {
    const takers = [...this.#listeners].filter((one) => one.covers(message));
    // Those who want the newest only are not given every copy, and those who were refused none.
    const copies = new Set(takers.filter(({ every, key }) => !every && !this.#refused.has(key)).map((one) => one.key)).size;
    for (const one of takers) one.take(message, copies);
  }

  // --- the connection --------------------------------------------------------------------------

  async #open() {
    const turn = ++this.#turn;
    const current = () => turn === this.#turn;
    this.#clear();
    if (this.state.name === "idle") this.#become("connecting");
    else this.#become(this.state.name); // an attempt is under way: there is no next one
    let socket;
    try {
      socket = await this.connect();
    } catch {
      if (current()) this.#missed();
      return;
    }
    if (!current()) return socket.close();
    this.#socket = socket;
    this.#heard = this.clock.now();
    socket.onopen = () => {
      if (!current()) return;
      this.#opened = true;
      this.#heard = this.clock.now();
      for (const key of new Set([...this.#listeners].map((one) => one.key))) this.#ask(key);
    };
    socket.onmessage = (event) => current() && this.#receive(JSON.parse(event.data));
    socket.onclose = (event) => current() && this.#closed(event.code);
    this.#watch(turn, this.#heard);
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #closed(code) {
    const opened = this.#opened;
    const next = verdict(code);
    this.#turn += 1;
    this.#clear();
    if (next !== "retry") {
      this.#become("stopped");
      this.on.refused(next, code);
    } else if (!this.#listeners.size) {
      this.#become("idle");
    } else if (opened) {
      this.#again(this.#delay === null ? "reconnecting" : "live"); // as planned: it is away if it can't come back
    } else {
      this.#missed();
    }
  }

  #missed() {
    this.#socket = null;
    this.#again(this.#attempt + 1 >= GIVE_UP_HOPE ? "offline" : "reconnecting");
    this.on.failed();
  }

  #again(name) {
    const delay = this.#delay ?? backoff(this.#attempt, this.random());
    this.#delay = null;
    this.#attempt += 1;
    this.#turn += 1;
    this.#clear();
    this.#timer = this.clock.setTimeout(() => this.#open(), delay);
    this.#become(name, this.clock.now() + delay);
  }

  #end(name) {
    const socket = this.#socket;
    this.#turn += 1;
    this.#clear();
    socket?.close();
    this.#become(name);
  }

  #clear() {
    this.clock.clearTimeout(this.#timer);
    this.clock.clearTimeout(this.#ticker);
    this.#timer = null;
    this.#socket = null;
    this.#opened = false;
    this.#asked = null;
  }

  // --- signs of life ---------------------------------------------------------------------------

  #ping() {
    this.#asked ??= this.clock.now();
    this.#send({ type: "ping" });
  }

  /* A peer that vanished without a word leaves the socket open for minutes: ask, then give up. */
  #watch(turn, last) {
    this.#ticker = this.clock.setTimeout(() => {
      if (turn !== this.#turn) return;
      const now = this.clock.now();
      const late = now - last > TICK_MS + LATE_MS;
      if (!this.#opened) {
        if (now - this.#heard > OPEN_MS) return this.#giveUp();
      } else if (this.#idleSince !== null && now - this.#idleSince > IDLE_MS) {
        return this.#end("idle");
      } else if (late) {
        this.#asked = null; // whatever was asked, its answer may still be waiting to be read
        this.#ping();
      } else if (this.#asked !== null) {
        if (now - this.#asked > PONG_MS) return this.#giveUp();
      } else if (now - this.#heard > QUIET_MS) {
        this.#ping();
      }
      this.#watch(turn, now);
    }, TICK_MS);
  }

  #giveUp() {
    const socket = this.#socket;
    this.#closed(1006);
    socket.close();
  }

  #become(name, next = null) {
    if (name === this.state.name && next === this.state.next) return;
    const away = name === "reconnecting" || name === "offline" || name === "stopped";
    const since = away ? (this.state.since ?? this.clock.now()) : null;
    this.state = { name, since, next };
    this.on.state(this.state);
  }
}

const browserClock = {
  now: () => Date.now(),
  setTimeout: (call, ms) => setTimeout(call, ms),
  clearTimeout: (timer) => clearTimeout(timer),
};
