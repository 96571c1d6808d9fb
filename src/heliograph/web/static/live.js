/* One WebSocket that goes on where it was.

   The stream knows the id of the last event it handed on. Whenever the connection ends it comes back
   after a jittered, growing delay and subscribes `after` that id, so nothing is missed and nothing comes
   twice. The service may ask to come back later (`reconnect`), say that the cursor is too old (`reset`:
   the page takes a new snapshot), be unable to subscribe now (`unavailable`: the page comes back as after
   a lost connection), or close for good (codes 4500–4999). A connection that has gone silent
   is asked for a `pong` and given up if none comes. No DOM here; the socket and the clock are handed in. */

const OPEN_MS = 10_000;
const QUIET_MS = 25_000;
const SILENT_MS = 40_000;
const CHECK_MS = 5_000;
const GIVE_UP_HOPE = 3; // failed attempts until "reconnecting" is called "offline"

/** Whether an id comes after another; ids are `<milliseconds>-<sequence>`. */
export function isAfter(id, other) {
  const [a, b] = [id.split("-"), other.split("-")];
  return a[0] === b[0] ? Number(a[1]) > Number(b[1]) : Number(a[0]) > Number(b[0]);
}

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

export class LiveStream {
  cursor = null;
  state = "idle"; // then connecting, live, reconnecting, offline or stopped

  #turn = 0; // counts connections, so that what belongs to an old one is ignored
  #socket = null;
  #attempt = 0;
  #timer = null;
  #delay = null;
  #heard = 0;

  /**
   * @param {object} options
   * @param {string} options.channel what to subscribe to
   * @param {() => Promise<WebSocket>} options.connect makes a socket; may reject
   * @param {object} options.on `message`, `gap`, `reset`, `problem` take a message; `refused` takes the
   *   verdict `key` or `stop` and the close code; `failed` is told of an attempt that got no connection;
   *   `state` takes the new state
   * @param {object} [options.clock] `now`, `setTimeout`, `clearTimeout`
   * @param {() => number} [options.random]
   */
  constructor({ channel, connect, on, clock = browserClock, random = Math.random }) {
    Object.assign(this, { channel, connect, on, clock, random });
  }

  /** Go on live after a cursor. */
  start(cursor) {
    this.stop();
    this.cursor = cursor;
    this.#attempt = 0;
    this.#open();
  }

  /** End the connection and all attempts. */
  stop() {
    this.#turn += 1;
    this.clock.clearTimeout(this.#timer);
    this.#socket?.close();
    this.#socket = null;
    this.#become("idle");
  }

  /** Try at once if it is waiting to: the network or the page came back. */
  wake() {
    if (this.state !== "reconnecting" && this.state !== "offline") return;
    if (this.#socket) return;
    this.clock.clearTimeout(this.#timer);
    this.#open();
  }

  async #open() {
    const turn = ++this.#turn;
    const current = () => turn === this.#turn;
    if (this.state === "idle") this.#become("connecting");
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
    let opened = false;
    socket.onopen = () => {
      if (!current()) return;
      opened = true;
      this.#heard = this.clock.now();
      this.#send({ type: "subscribe", channel: this.channel, after: this.cursor });
    };
    socket.onmessage = (event) => current() && this.#receive(JSON.parse(event.data));
    socket.onclose = (event) => current() && this.#closed(event.code, opened);
    this.#watch(turn, () => opened);
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #receive(message) {
    this.#heard = this.clock.now();
    switch (message.type) {
      case "subscribed":
        this.#become("live");
        break;
      case "gap":
        if (message.to && isAfter(message.to, this.cursor)) this.cursor = message.to;
        this.on.gap(message);
        break;
      case "reset":
        this.on.reset(message);
        break;
      case "reconnect":
        this.#delay = message.after_ms;
        this.#socket.close();
        break;
      case "error":
        this.on.problem(message);
        if (message.code === "unavailable") this.#socket.close(); // nothing is subscribed then, if it ever was
        break;
      default:
        this.#attempt = 0; // not before: after `subscribed` may still come `unavailable`
        if (message.id === undefined || !isAfter(message.id, this.cursor)) break;
        this.cursor = message.id;
        this.on.message(message);
    }
  }

  #closed(code, opened) {
    this.#socket = null;
    const next = verdict(code);
    if (next !== "retry") {
      this.#turn += 1;
      this.clock.clearTimeout(this.#timer);
      this.#become("stopped");
      this.on.refused(next, code);
    } else if (opened) {
      this.#again("reconnecting");
    } else {
      this.#missed();
    }
  }

  #missed() {
    this.#socket = null;
    this.#again(this.#attempt + 1 >= GIVE_UP_HOPE ? "offline" : "reconnecting");
    this.on.failed();
  }

  #again(state) {
    const delay = this.#delay ?? backoff(this.#attempt, this.random());
    this.#delay = null;
    this.#attempt += 1;
    this.#turn += 1;
    this.#become(state);
    this.clock.clearTimeout(this.#timer);
    this.#timer = this.clock.setTimeout(() => this.#open(), delay);
  }

  /* A peer that vanished without a word leaves the socket open for minutes: ask, then give up. */
  #watch(turn, opened) {
    this.clock.clearTimeout(this.#timer);
    this.#timer = this.clock.setTimeout(() => {
      if (turn !== this.#turn) return;
      const silence = this.clock.now() - this.#heard;
      if (silence > (opened() ? SILENT_MS : OPEN_MS)) {
        const socket = this.#socket;
        this.#closed(1006, opened());
        socket.close();
        return;
      }
      if (opened() && silence > QUIET_MS) this.#send({ type: "ping" });
      this.#watch(turn, opened);
    }, CHECK_MS);
  }

  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.on.state(state);
  }
}

const browserClock = {
  now: () => performance.now(),
  setTimeout: (call, ms) => setTimeout(call, ms),
  clearTimeout: (timer) => clearTimeout(timer),
};
