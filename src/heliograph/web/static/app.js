/* The page: one snapshot, one stream, and what they change on the screen.

   The tasks are fetched once, then one WebSocket subscribed to `task:*` goes on from the snapshot's
   cursor; the list and the open log both live from it. Messages change state at once and cost no DOM
   work; what the reader does is shown in the next frame, what comes some 20 times per second, in the list
   5 times. */

import { Api } from "./api.js";
import { Fleet, nameOf } from "./fleet.js";
import { compact } from "./format.js";
import { put, TaskList } from "./list.js";
import { backoff, LiveStream } from "./live.js";
import { copied, LogView } from "./log.js";
import { TERMINAL } from "./task.js";

const PAGE = 500;
const PAGES_AT_START = 4;
const FETCHES = 4; // unknown tasks fetched at a time
const GLIMPSES = 40; // running tasks whose last line is fetched at the start
const MESSAGES_MS = 40; // what comes within so long is drawn together
const LIST_MS = 200;
const SEARCH_MS = 300;
const RATE_SECONDS = 60;

const byId = (id) => document.getElementById(id);
const api = new Api();
const fleet = new Fleet(fetchTask);
const list = new TaskList(byId("sections"), fleet, () => api.now());
const log = new LogView(byId("log"), { api, fleet, redraw, failed: report });
const stream = new LiveStream({
  channel: "task:*",
  connect: () => api.connect(),
  on: {
    message: take,
    gap: ({ count, reason }) => begin(`The stream left out ${count ?? "some"} events (${reason}); the list was loaded anew.`),
    reset: ({ reason }) => begin(`The stream could not be resumed (${reason}); the list was loaded anew.`),
    problem: ({ title, detail }) => say(detail ? `${title}: ${detail}` : title),
    refused: (why, code) => (why === "key" ? askKey() : say(`The service closed the stream for good (code ${code}).`)),
    failed: probe,
    state: showState,
  },
});

// --- snapshot, then tail -------------------------------------------------------------------------

let beginning = 0; // counts snapshots: what belongs to an older one is ignored
let attempts = 0;
let older = null; // cursor of the next older page of tasks, null when all are loaded

/** Take a new snapshot and go on live from it. */
async function begin(notice = null) {
  const turn = ++beginning;
  stream.stop();
  showState("connecting");
  let page;
  try {
    page = await api.get("/api/tasks", { limit: PAGE });
  } catch (problem) {
    if (turn !== beginning) return;
    report(problem);
    if (needsKey(problem)) return;
    showState("offline");
    setTimeout(() => turn === beginning && begin(notice), backoff(attempts++, Math.random()));
    return;
  }
  if (turn !== beginning) return;
  attempts = 0;
  say(notice, "notice");
  fleet.clear();
  fleet.merge(page.tasks);
  older = page.meta.next_cursor;
  stream.start(page.meta.stream_cursor);
  log.reload();
  redraw();
  try {
    await loadActive(turn);
    await loadLatest(turn);
    for (let i = 1; i < PAGES_AT_START && older && turn === beginning; i++) await loadOlder(turn);
  } catch (problem) {
    if (turn === beginning) report(problem);
  }
}

/* What is not finished must be in the list however old it is. */
async function loadActive(turn) {
  let cursor = older && "";
  while (cursor !== null && turn === beginning) {
    const page = await api.get("/api/tasks", { status: "running,waiting_input,queued", limit: PAGE, cursor });
    if (turn !== beginning) return;
    fleet.merge(page.tasks);
    cursor = page.meta.next_cursor;
    redraw();
  }
}

/* What the running tasks in view said last, so that the list speaks before the next line comes. */
async function loadLatest(turn) {
  for (const { task_id } of fleet.sections(list.filter).running.slice(0, GLIMPSES)) {
    if (turn !== beginning) return;
    const { lines } = await api.get(`/api/tasks/${encodeURIComponent(task_id)}/logs`, { tail: 1 });
    if (lines.length) fleet.glimpse(task_id, lines[0].output);
    redraw();
  }
}

async function loadOlder(turn) {
  const page = await api.get("/api/tasks", { limit: PAGE, cursor: older });
  if (turn !== beginning) return;
  fleet.merge(page.tasks);
  older = page.meta.next_cursor;
  redraw();
}

let received = 0;
let drawing = null; // timer

function take(message) {
  received += 1;
  if (!message.channel.startsWith("task:")) return;
  fleet.take(message);
  if (message.channel === `task:${log.id}`) log.take(message);
  drawing ??= setTimeout(() => {
    drawing = null;
    redraw();
  }, MESSAGES_MS);
}

const wanted = [];
let fetching = 0;

/* A task that the stream speaks of and the list does not have: fetched, a few at a time. */
async function fetchTask(id) {
  wanted.push(id);
  if (fetching >= FETCHES) return;
  fetching += 1;
  for (let next = wanted.shift(); next !== undefined; next = wanted.shift()) {
    try {
      fleet.merge([await api.get(`/api/tasks/${encodeURIComponent(next)}`)]);
    } catch {
      setTimeout(() => fleet.forget(next), 2_000); // its next message asks again
    }
    redraw();
  }
  fetching -= 1;
}

/* A handshake that is refused looks to a browser like no answer at all, so ask why over HTTP. */
async function probe() {
  try {
    await api.get("/api/tasks", { limit: 1 });
  } catch (problem) {
    if (problem.status) report(problem);
  }
}

function needsKey(problem) {
  return problem.status === 401 || problem.status === 403;
}

function askKey() {
  stream.stop();
  beginning += 1;
  showState("stopped", "key needed");
  const dialog = byId("ask-key");
  put(dialog.querySelector(".refused"), api.key ? "The service did not accept the key for this page." : "");
  if (!dialog.open) dialog.showModal();
}

// --- the frame -----------------------------------------------------------------------------------

let scheduled = false;
let listDrawn = 0;

function redraw() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(frame);
}

function frame(now) {
  scheduled = false;
  log.draw();
  if (!fleet.dirty) return;
  if (now - listDrawn < LIST_MS) return redraw();
  listDrawn = now;
  fleet.dirty = false;
  drawFleet();
}

function drawFleet() {
  const totals = fleet.totals();
  for (const button of byId("totals").children) {
    const { status } = button.dataset;
    put(button.querySelector("b"), compact(totals[status]) + (older && TERMINAL.has(status) ? "+" : ""));
    button.setAttribute("aria-pressed", list.filter.status === status);
  }
  drawAgents();
  list.open = log.id;
  list.draw();
  byId("welcome").hidden = fleet.size > 0 || stream.state === "idle";
  byId("nothing").hidden = fleet.size === 0 || list.matching > 0;
  byId("fleet").classList.toggle("empty", fleet.size === 0);
  byId("older").hidden = !older;
  const open = fleet.get(log.id);
  document.title = `${open ? nameOf(open) : `${totals.running} running`} · Heliograph`;
}

let agentsVersion = -1;

function drawAgents() {
  if (fleet.version === agentsVersion) return;
  agentsVersion = fleet.version;
  const select = byId("agent");
  const names = fleet.agents();
  if (select.dataset.names === JSON.stringify(names)) return;
  select.dataset.names = JSON.stringify(names);
  select.replaceChildren(new Option("All agents", ""), ...names.map((name) => new Option(name, name)));
  select.value = list.filter.agent;
}

function refilter(change) {
  Object.assign(list.filter, change);
  fleet.dirty = true;
  redraw();
}

// --- connection, rate, notices -------------------------------------------------------------------

const STATES = { idle: "connecting", connecting: "connecting", live: "live", reconnecting: "reconnecting", offline: "offline", stopped: "stopped" };

function showState(state, text = STATES[state]) {
  const node = byId("connection");
  node.dataset.state = state;
  put(node.querySelector("span"), text);
  if (state === "live" && byId("banner").dataset.kind === "problem") say(null);
  fleet.dirty = true;
  redraw();
}

/** Show a notice until it is dismissed or replaced; null hides it. */
function say(text, kind = "problem") {
  const banner = byId("banner");
  banner.hidden = text === null;
  banner.dataset.kind = kind;
  put(banner.firstElementChild, text ?? "");
}

function report(problem) {
  if (needsKey(problem)) askKey();
  else say(problem.message);
}

const rates = Array(RATE_SECONDS).fill(0);

setInterval(() => {
  rates.shift();
  rates.push(received);
  received = 0;
  const recent = rates.slice(-3).reduce((sum, n) => sum + n, 0) / 3;
  put(byId("rate"), recent > 0 && recent < 10 ? recent.toFixed(1) : compact(Math.round(recent)));
  const highest = Math.max(...rates, 5);
  const points = rates.map((n, i) => `${((i / (RATE_SECONDS - 1)) * 90).toFixed(1)},${(20.5 - (n / highest) * 19).toFixed(1)}`);
  byId("spark").firstElementChild.setAttribute("points", points.join(" "));
  fleet.dirty = true; // times go on
  redraw();
}, 1000);

// --- what the reader does ------------------------------------------------------------------------

function route() {
  const match = /^#\/tasks\/(.+)$/.exec(location.hash);
  const id = match && decode(match[1]);
  if (id === log.id) return;
  document.body.classList.toggle("reading", Boolean(id));
  if (id) {
    log.open(id);
    if (stream.state !== "idle") log.reload(); // else the snapshot on its way does it
    log.scroller.focus({ preventScroll: true });
  } else {
    const was = log.id;
    log.close();
    list.focus(was);
  }
  fleet.dirty = true;
  redraw();
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function back() {
  if (document.activeElement === byId("filter")) {
    byId("filter").value = "";
    byId("filter").blur();
    refilter({ text: "" });
  } else if (log.id !== null) {
    location.hash = "#/";
  }
}

function step(by) {
  const links = list.links();
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  const from = at >= 0 ? at : links.findIndex((link) => link.hasAttribute("aria-current"));
  links[from < 0 ? 0 : Math.max(0, Math.min(links.length - 1, from + by))].focus();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("ask-key").open) return;
  if (event.key === "Escape") return back();
  if (event.target.matches("input, select")) return;
  const inList = event.target === document.body || event.target.closest("#fleet");
  if (event.key === "/") byId("filter").focus();
  else if (event.key === "j" || (event.key === "ArrowDown" && inList)) step(1);
  else if (event.key === "k" || (event.key === "ArrowUp" && inList)) step(-1);
  else return;
  event.preventDefault();
});

let searchTimer = null;

byId("filter").addEventListener("input", ({ target }) => {
  refilter({ text: target.value });
  clearTimeout(searchTimer);
  const text = target.value.trim();
  // What is not loaded can only be found by the service.
  if (older && text) searchTimer = setTimeout(() => search(text), SEARCH_MS);
});

async function search(text) {
  try {
    fleet.merge((await api.get("/api/tasks", { text, limit: 100 })).tasks);
    redraw();
  } catch (problem) {
    report(problem);
  }
}

byId("agent").addEventListener("change", ({ target }) => refilter({ agent: target.value }));
byId("totals").addEventListener("click", ({ target }) => {
  const status = target.closest("button")?.dataset.status;
  if (status) refilter({ status: list.filter.status === status ? null : status });
});
byId("nothing").querySelector("button").addEventListener("click", () => {
  byId("filter").value = byId("agent").value = "";
  refilter({ text: "", agent: "", status: null });
});
byId("older").querySelector("button").addEventListener("click", () => loadOlder(beginning).catch(report));
byId("close").addEventListener("click", () => (location.hash = "#/"));
byId("banner").querySelector("button").addEventListener("click", () => say(null));
byId("ask-key").addEventListener("cancel", (event) => event.preventDefault());
byId("ask-key").querySelector("form").addEventListener("submit", ({ target }) => {
  const input = target.querySelector("input");
  api.key = input.value;
  input.value = "";
  begin();
});
for (const command of document.querySelectorAll(".command")) {
  command.querySelector("button").addEventListener("click", ({ target }) => copied(target, command.querySelector("code").textContent));
}
const elsewhere = ["http://127.0.0.1:5000", "http://localhost:5000"].includes(location.origin) ? "" : `HELIOGRAPH_URL=${location.origin} `;
put(byId("try-exec"), `${elsewhere}heliograph exec --agent build -- python -m compileall -q -f /usr/lib/python3`);
put(
  byId("try-curl"),
  `curl ${location.origin}/api/v1/events -H 'Content-Type: application/json' \\\n  -d '{"type": "task_output", "task_id": "hello", "output": "Hello, fleet"}'`,
);

addEventListener("hashchange", route);
addEventListener("online", () => stream.wake());
addEventListener("visibilitychange", () => document.hidden || stream.wake());
route();
begin();
