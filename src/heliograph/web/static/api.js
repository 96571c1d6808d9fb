/* The service's REST answers, and the WebSocket of its streams.

   When the service asks for a key, it is kept for this tab only, sent as `X-API-Key`, and traded for a
   short-lived ticket whenever a stream is opened, since a browser's WebSocket can't send headers. */

const KEY = "heliograph.key";
const TIMEOUT_MS = 20_000;

/** An answer that is a problem (RFC 9457), or no answer at all (`status` 0). */
export class Problem extends Error {
  constructor({ title, detail = "", status }) {
    super(detail ? `${title}: ${detail}` : title);
    Object.assign(this, { title, detail, status });
  }
}

export class Api {
  /** Milliseconds by which the service's clock is ahead of the browser's. */
  skew = 0;

  get key() {
    return sessionStorage.getItem(KEY);
  }

  set key(key) {
    sessionStorage.setItem(KEY, key);
  }

  /** Milliseconds since the epoch by the service's clock. */
  now() {
    return Date.now() + this.skew;
  }

  /**
   * Fetch JSON.
   *
   * @param {string} path below the origin
   * @param {object} [query] parameters; those that are null, undefined or empty are left out
   * @throws {Problem}
   */
  async get(path, query = {}) {
    return (await this.#ask("GET", path, query)).json();
  }

  /** Trade the key for a ticket that a URL may carry for a short while. */
  async ticket() {
    return (await (await this.#ask("POST", "/api/v1/stream-tickets")).json()).ticket;
  }

  /** Open a WebSocket to the streams. */
  async connect() {
    const url = new URL("/ws", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.key) url.searchParams.set("ticket", await this.ticket());
    return new WebSocket(url);
  }

  async #ask(method, path, query = {}) {
    const url = new URL(path, location.href);
    for (const [name, value] of Object.entries(query)) {
      if (value != null && value !== "") url.searchParams.set(name, value);
    }
    let answer;
    try {
      answer = await fetch(url, {
        method,
        headers: this.key ? { "X-API-Key": this.key } : {},
        signal: AbortSignal.timeout(TIMEOUT_MS),
        cache: "no-store",
      });
    } catch (error) {
      const title = error.name === "TimeoutError" ? "The service did not answer in time" : "The service can't be reached";
      throw new Problem({ title, status: 0 });
    }
    this.#readClock(answer.headers.get("Date"));
    if (answer.ok) return answer;
    throw new Problem({ title: answer.statusText || "The service refused", ...(await problemOf(answer)), status: answer.status });
  }

  /* The header has whole seconds, so only a larger difference tells anything. */
  #readClock(date) {
    if (!date) return;
    const skew = Date.parse(date) + 500 - Date.now();
    this.skew = Math.abs(skew) > 2_000 ? skew : 0;
  }
}

async function problemOf(answer) {
  try {
    const { title, detail } = await answer.json();
    return title ? { title, detail } : {};
  } catch {
    return {}; // not from the service itself: a proxy's page
  }
}
