/* A task, folded from the messages of its channel.

   This is the same rule as the service's own fold, so a list that was fetched once stays equal to what
   the service would answer now. Statuses go queued → running ⇄ waiting_input → completed | failed |
   cancelled | lost; another terminal status corrects the outcome: what it leaves out keeps what it was. A task
   that is said to run after its end begins another attempt, whose costs are added; a lost one goes on with its
   own. No DOM here. */

export const STATUSES = ["queued", "running", "waiting_input", "completed", "failed", "cancelled", "lost"];
export const TERMINAL = new Set(["completed", "failed", "cancelled", "lost"]);

/* By their names in a result: the fields of a task that count tokens. */
const TOKENS = {
  input_tokens: "input_tokens",
  output_tokens: "output_tokens",
  cached_tokens: "cached_tokens",
  cache_read_input_tokens: "cache_read_tokens",
  cache_creation_input_tokens: "cache_write_tokens",
};

const DESCRIPTIONS = ["name", "agent", "agent_type", "model", "session_id", "conversation_id", "input", "metadata"];

/** Begin a task at the first message that mentions it, whatever that message is. */
export function firstSeen(message) {
  return {
    task_id: message.channel.slice("task:".length),
    name: null,
    agent: null,
    agent_type: null,
    model: null,
    session_id: null,
    conversation_id: null,
    status: "queued",
    input: null,
    metadata: null,
    created_at: message.timestamp,
    started_at: null,
    finished_at: null,
    updated_at: message.timestamp,
    duration_ms: null,
    output_lines: 0,
    output_bytes: 0,
    cost_usd: null,
    cost_computed: false,
    input_tokens: null,
    output_tokens: null,
    cached_tokens: null,
    cache_read_tokens: null,
    cache_write_tokens: null,
    error: null,
    result: null,
    last_seq: 0,
    last_event_id: "0-0",
    finished_event_id: null,
    attempts: 1,
    heartbeat_seconds: null,
  };
}

/** Fold one message into its task, in place; a cost that the service computes from its prices is not known here. */
export function fold(task, message) {
  task.last_seq = message.seq;
  task.last_event_id = message.id;
  if (micros(message.timestamp) > micros(task.updated_at)) task.updated_at = message.timestamp;
  if (message.type === "task_output") {
    run(task, message.timestamp);
    task.output_lines += 1;
    task.output_bytes += utf8Length(message.output);
  } else if (message.type === "task_status") {
    changeStatus(task, message);
  } else if (message.topic === "task.cost") {
    addCost(task, message);
  } else if (message.topic === "task.created") {
    for (const field of DESCRIPTIONS) task[field] = message.payload[field] ?? task[field];
    task.heartbeat_seconds = message.payload.heartbeat_seconds || task.heartbeat_seconds;
  }
}

function changeStatus(task, message) {
  if (message.status === "lost" && TERMINAL.has(task.status)) return;
  if (task.status === "lost" && message.status !== "queued") unfinish(task, task.started_at === null ? "queued" : "running");
  if (TERMINAL.has(message.status)) {
    task.status = message.status;
    task.finished_at ??= message.timestamp;
    task.finished_event_id = message.id;
    const begun = micros(task.started_at ?? task.created_at);
    task.duration_ms = Math.max(0, Math.round((micros(task.finished_at) - begun) / 1000));
    if (message.result != null) takeResult(task, message.result);
  } else if (message.status !== "queued") {
    if (TERMINAL.has(task.status)) {
      // What was said before the end may arrive behind it.
      if (message.status !== "running" || micros(message.timestamp) < micros(task.finished_at)) return;
      beginAgain(task);
    }
    run(task, message.timestamp);
    task.status = message.status;
  }
}

/* By task: what its earlier attempts have spent. A list fetched while a task runs again does not say it; the
   next answer of the service does. */
const earlier = new WeakMap();

function beginAgain(task) {
  task.attempts += 1;
  earlier.set(task, { cost_usd: task.cost_usd, ...Object.fromEntries(Object.values(TOKENS).map((field) => [field, task[field]])) });
  unfinish(task, "queued");
}

function unfinish(task, status) {
  task.status = status;
  task.finished_at = task.finished_event_id = task.duration_ms = task.error = null;
  task.result = {};
}

function addCost(task, { timestamp, payload }) {
  run(task, timestamp);
  if (payload.cost_usd != null) task.cost_usd = dollars((task.cost_usd ?? 0) + payload.cost_usd);
  for (const [name, field] of Object.entries(TOKENS)) if (payload[name] != null) task[field] = (task[field] ?? 0) + payload[name];
}

/* Whole nano-dollars, as the service counts. */
function dollars(amount) {
  return Math.round(amount * 1e9) / 1e9;
}

function run(task, moment) {
  if (task.status !== "queued") return;
  task.status = "running";
  task.started_at = moment;
}

/* Null says nothing, except of an error: then there is none. */
function takeResult(task, result) {
  const said = Object.fromEntries(Object.entries(result).filter(([name, value]) => value != null || name === "error"));
  task.result = { ...result, ...task.result, ...said };
  const before = earlier.get(task) ?? {};
  if (said.cost_usd != null) task.cost_usd = dollars((before.cost_usd ?? 0) + said.cost_usd);
  for (const [name, field] of Object.entries(TOKENS)) if (said[name] != null) task[field] = (before[field] ?? 0) + said[name];
  if ("error" in said) task.error = said.error == null ? null : asText(said.error);
  if (task.model == null && typeof said.model === "string") task.model = said.model;
}

function asText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Microseconds since the epoch of a time as the service writes it: UTC, with six decimals or none. */
export function micros(iso) {
  const fraction = iso[19] === "." ? Number(iso.slice(20, 26)) : 0;
  return Date.parse(`${iso.slice(0, 19)}Z`) * 1000 + fraction;
}

/** Bytes of a text in UTF-8, without encoding it. */
export function utf8Length(text) {
  let bytes = text.length;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) continue;
    // A surrogate pair is two units and four bytes, so each of its halves counts two.
    bytes += unit < 0x800 || (unit >= 0xd800 && unit <= 0xdfff) ? 1 : 2;
  }
  return bytes;
}
