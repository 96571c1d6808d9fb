/* The service's REST answers and the WebSocket of its streams: every path that the page knows.

   All addresses are relative to where the page is, so that it works below any path of a proxy. A key is traded for a
   session (a cookie that scripts can't read) which serves all tabs, streams and downloads. */

const V1 = "api/v1";
const TIMEOUT_MS = 20_000;

const HEADER_TEXT = /^[\x21-\x7e\xa1-\xff](?:[\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa1-\xff])?$/; // what a header can carry

const escaped = encodeURIComponent;

/** Where everything is, below the page's own address. */
export const paths = {
  tasks: `${V1}/tasks`,
  groups: `${V1}/task-groups`,
  task: (id) => `${V1}/tasks/${escaped(id)}`,
  log: (id) => `${V1}/tasks/${escaped(id)}/logs`,
  fullLog: (id) => `${V1}/tasks/${escaped(id)}/logs/full`,
  answers: (id) => `${V1}/tasks/${escaped(id)}/answers`,
  agents: `${V1}/agents`,
  summary: `${V1}/analytics/summary`,
  histogram: (kind) => `${V1}/analytics/${kind}/histogram`,
  performance: `${V1}/analytics/performance`,
  status: `${V1}/status`,
  health: `${V1}/health`,
  events: `${V1}/events`,
  sessions: `${V1}/sessions`,
  conversations: `${V1}/conversations`,
  conversation: (id) => `${V1}/conversations/${escaped(id)}`,
  clearConversation: (id) => `${V1}/conversations/${escaped(id)}/clear`,
  messages: (id) => `${V1}/conversations/${escaped(id)}/messages`,
  workflows: `${V1}/workflows`,
  workflow: (id) => `${V1}/workflows/${escaped(id)}`,
  pipeline: (id) => `${V1}/workflows/${escaped(id)}/pipeline`,
  runs: (id) => `${V1}/workflows/${escaped(id)}/runs`,
  run: (id, run) => `${V1}/workflows/${escaped(id)}/runs/${escaped(run)}`,
  webhooks: `${V1}/webhooks`,
  webhook: (id) => `${V1}/webhooks/${escaped(id)}`,
  switchWebhook: (id, on) => `${V1}/webhooks/${escaped(id)}/${on ? "enable" : "disable"}`,
  webhookStats: `${V1}/webhooks/stats`,
  deliveries: `${V1}/webhooks/events`,
  session: `${V1}/session`,
  ticket: `${V1}/stream-tickets`,
  socket: "ws",
  documents: ["openapi.json", "asyncapi.json", "metrics"],
};

/** An answer that is a problem (RFC 9457), or no answer at all (`status` 0); `answer` is what it says as JSON. */
export class Problem extends Error {
  constructor({ title, detail = "", status, answer = null }) {
    super(detail ? `${title}: ${detail}` : title);
    Object.assign(this, { title, detail, status, answer });
  }

  /** Whether a key is what is missing. */
  get needsKey() {
    return this.status === 401;
  }
}

export class Api {
  /** Milliseconds by which the service's clock is ahead of the browser's. */
  skew = 0;

  /** @param {string} base address of the page */
  constructor(base) {
    this.base = base;
  }

  /** Milliseconds since the epoch by the service's clock. */
  now() {
    return Date.now() + this.skew;
  }

  /** The whole address of a path; parameters that are null, undefined or empty are left out. */
  url(path, query = {}) {
    const url = new URL(path, this.base);
    for (const [name, value] of Object.entries(query)) {
      if (Array.isArray(value)) value.forEach((one) => url.searchParams.append(name, one));
      else if (value != null && value !== "") url.searchParams.set(name, value);
    }
    return url;
  }

  /**
   * Fetch JSON.
   *
   * @param {string} path one of `paths`
   * @param {object} [query] parameters
   * @throws {Problem}
   */
  async get(path, query = {}) {
    return (await this.#ask("GET", this.url(path, query))).json();
  }

  /** Fetch an answer in another form, as a file. */
  async file(path, query, type) {
    return (await this.#ask("GET", this.url(path, query), undefined, { Accept: type })).blob();
  }

  /** Send JSON (or nothing) and fetch the answer, null where it has none. */
  async send(method, path, body, query = {}) {
    const answer = await this.#ask(method, this.url(path, query), body);
    return answer.status === 204 ? null : answer.json();
  }

  /** Trade a key for a session, which from then on speaks for every tab of this page. */
  async begin(key) {
    if (!HEADER_TEXT.test(key)) throw new Problem({ title: "This can't be a key", detail: "it has characters that no key has", status: 401 });
    await this.#ask("POST", this.url(paths.session), undefined, { "X-API-Key": key });
  }

  /** Forget the session. */
  async end() {
    await this.#ask("DELETE", this.url(paths.session));
  }

  /** Open a WebSocket to the streams. */
  async connect() {
    const url = this.url(paths.socket);
    url.protocol = url.protocol.replace("http", "ws");
    return new WebSocket(url);
  }

  async #ask(method, url, body, headers = {}) {
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(url, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
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
    const body = await answer.json();
    return { ...(body.title && { title: body.title, detail: body.detail }), answer: body };
  } catch {
    return {}; // not from the service itself: a proxy's page
  }
}
