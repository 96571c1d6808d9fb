/* The page around its views: which of them are open, what they share, and when they draw.

   What views share is one API, one set of streams and the fleet's tasks, all kept live whichever view is open.
   Messages change state at once and cost no DOM work; what the reader does is drawn in the next frame, what
   comes some 20 times a second. */

import { Api, paths } from "./core/api.js";
import { compact, duration } from "./core/format.js";
import { nameOf } from "./core/fleet.js";
import { Looked } from "./core/looked.js";
import { Preferences } from "./core/preferences.js";
import { format, parse } from "./core/route.js";
import { SharedStreams } from "./core/shared.js";
import { Streams } from "./core/streams.js";
import { Tasks } from "./core/tasks.js";
import { tick } from "./parts/chips.js";
import { askKey } from "./parts/key.js";
import { h, put } from "./parts/dom.js";
import { NOWHERE, VIEWS } from "./views/index.js";

const MESSAGES_MS = 40; // what comes within so long is drawn together
const RATE_SECONDS = 60;

let scheduled = false; // a frame
let soon = null; // timer of the next one

const byId = (id) => document.getElementById(id);
const base = new URL(".", location.href).href;
const api = new Api(base);

const streams = openStreams({
  state: showState,
  problem: ({ title, detail }) => say(detail ? `${title}: ${detail}` : title),
  refused: (why, code) => (why === "key" ? needKey() : say(`The service closed the stream for good (code ${code}).`)),
  failed: probe,
});

function openStreams(on) {
  if (!globalThis.SharedWorker) return new Streams({ connect: () => api.connect(), on });
  const address = new URL(`core/worker.js#${new URLSearchParams({ base })}`, import.meta.url);
  const worker = new SharedWorker(address, { type: "module" });
  worker.onerror = () => say("The live connection could not be begun: the service is away, or was updated. Reload the page.");
  return new SharedStreams(worker.port, on);
}

const preferences = new Preferences((chosen) => {
  if (chosen.notify === "on" && globalThis.Notification?.permission === "default") Notification.requestPermission();
  Object.assign(document.documentElement.dataset, chosen);
  redraw();
});

const looked = new Looked();
const tasks = new Tasks({ api, streams, changed: redrawSoon, failed: report, notice: (text) => say(text, "notice"), moved: taskMoved });

/** What a view is given. */
export const shell = {
  api,
  streams,
  tasks,
  preferences,
  looked,
  now: () => api.now(),
  redraw,
  redrawSoon,
  report,
  say,
  announce: (text) => put(byId("announce"), text),
  go: (segments, query) => (location.hash = format(segments, query)),
  /** Change parameters of this address without a step in the history. */
  amend(changes) {
    const place = here();
    const query = { ...Object.fromEntries(place.query), ...changes };
    history.replaceState(null, "", format(segmentsOf(place), query));
    navigate();
  },
};

// --- views ---------------------------------------------------------------------------------------

const open = new Map(); // name → {view, node, instance}
let turn = 0;
let shown = ""; // which view of what
let unloaded = false; // whether the view's module could not be had

function here() {
  return parse(location.hash, VIEWS) ?? { view: NOWHERE, values: {}, query: new URLSearchParams() };
}

function segmentsOf({ view, values }) {
  return view.path.split("/").filter(Boolean).map((name) => (name.startsWith(":") ? values[name.slice(1)] : name));
}

async function navigate() {
  const now = ++turn;
  unloaded = false;
  const place = here();
  const main = place.view;
  const what = JSON.stringify([main.name, place.values]);
  if (what !== shown) forgetProblem(); // it was of another view
  shown = what;
  const wanted = [...VIEWS.filter(({ name }) => name === main.beside), main];
  for (const [name, { instance, node }] of open) {
    if (wanted.some((view) => view.name === name)) continue;
    instance.close?.();
    node.remove();
    open.delete(name);
  }
  document.body.dataset.view = main.name;
  byId("main").setAttribute("aria-label", main.title ?? main.name); // it is what gets the focus
  document.querySelector("dialog:is(.palette, .help)")?.close(); // Back was pressed in it
  document.body.classList.toggle("beside", wanted.length > 1);
  for (const link of byId("views").children) {
    if (wanted.some(({ name, under }) => link.dataset.view === (under ?? name))) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ inline: "nearest", block: "nearest" });
    } else link.removeAttribute("aria-current");
  }
  for (const view of wanted) {
    const opened = open.get(view.name);
    if (opened && view === main && JSON.stringify(opened.values) !== JSON.stringify(place.values) && !view.beside) {
      // Another workflow is another view; one that stands beside another knows how to change.
      opened.instance.close?.();
      opened.node.remove();
      open.delete(view.name);
      if (!(await show(view, place, now))) return;
    } else if (opened) opened.instance.moved?.(place);
    else if (!(await show(view, place, now))) return;
  }
  if (now > 1 && document.activeElement === document.body) byId("main").focus({ preventScroll: true }); // what had the focus went with its view
  redraw();
}

async function show(view, place, now) {
  let module;
  try {
    module = await view.load();
  } catch {
    unloaded = true;
    say("This view could not be loaded: the service is away, or was updated.", "problem", { title: "Reload", does: () => location.reload() });
    return false;
  }
  if (now !== turn) return false;
  const node = h(`section.view-${view.name}`, { tabindex: "-1", dataset: { view: view.name } });
  byId("main").append(node);
  open.set(view.name, { node, values: place.values, instance: module.open(shell, node, place) });
  return true;
}

byId("views").append(...VIEWS.filter((view) => view.title).map((view) => h("a", { href: format([view.path].filter(Boolean)), dataset: { view: view.name } }, view.title)));

// --- the frame -----------------------------------------------------------------------------------

function redraw() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(frame);
}

function redrawSoon() {
  soon ??= setTimeout(() => {
    soon = null;
    redraw();
  }, MESSAGES_MS);
}

function frame(now) {
  scheduled = false;
  for (const { instance } of open.values()) instance.draw?.(now);
}

// --- connection, rate, notices -------------------------------------------------------------------

function showState(state) {
  drawState(state);
  if (state.name === "live" && unloaded) location.reload(); // a browser may keep that a module could not be had
  if (state.name === "live") forgetProblem();
}

/* While the service is away: since when, and when the next attempt is. */
function drawState(state) {
  const { name, since, next } = needed ? STOPPED : state;
  const node = byId("connection");
  node.dataset.state = name;
  const words = [name === "idle" ? "connecting" : name];
  if (since !== null) words.push(`for ${duration(Date.now() - since)}`);
  if (since !== null && name !== "stopped") words.push(next === null ? "trying" : `next try in ${Math.max(0, Math.ceil((next - Date.now()) / 1000))}s`);
  put(node.querySelector("span"), words.join(" · "));
}

let noticed = null; // the last notice, until it is dismissed: a problem covers it only while it lasts

/** Show a notice until it is dismissed or replaced, with something to do about it; null hides it. */
function say(text, kind = "problem", action = null) {
  const banner = byId("banner");
  if (kind === "notice") noticed = text;
  if (!banner.hidden && banner.firstElementChild.firstChild?.data === text) return; // or it would be read out at every attempt
  banner.hidden = text === null;
  banner.dataset.kind = kind;
  banner.firstElementChild.replaceChildren(...[text, action && h("button", { onclick: action.does }, action.title)].filter(Boolean));
}

function forgetProblem() {
  if (byId("banner").dataset.kind === "problem" && !asking) say(noticed, noticed === null ? "problem" : "notice");
}

/* Refusals of this page's address, as the service words them: no key helps there, and the words say what would. */
const ELSEWHERE = /^the (origin|host) /;

function report(problem) {
  if (problem.needsKey) needKey();
  else if (problem.status === 403 && !ELSEWHERE.test(problem.detail)) say(problem.message, "problem", { title: "Use another key", does: () => giveKey() });
  else say(problem.message);
}

/* A handshake that is refused looks to a browser like no answer at all, so ask why over HTTP: by a request that, as
   a handshake, needs a key and comes with the page's origin. */
async function probe() {
  try {
    await api.send("POST", paths.ticket);
  } catch (problem) {
    if (problem.status) report(problem);
  }
}

let asking = false; // for a key: at most once at a time, and not again until the reader wants to
let needed = false; // nothing goes on without one
const STOPPED = { name: "stopped", since: null, next: null };

function needKey() {
  needed = true;
  streams.stop();
  drawState(streams.state);
  if (!asking) giveKey();
}

async function giveKey(refused = "") {
  asking = true;
  const key = await askKey(refused);
  if (key === null && needed) return say("A key is needed to see anything here.", "problem", { title: "Give a key", does: () => giveKey() });
  if (key === null) return void (asking = false);
  try {
    await api.begin(key);
    location.reload(); // everything begins anew, with what this key may see
  } catch (problem) {
    giveKey(problem.detail || problem.message);
  }
}

async function logOut() {
  try {
    await api.end();
    location.reload();
  } catch (problem) {
    report(problem);
  }
}

const UNDONE = new Set(["failed", "lost"]);

/* A failure, or a loss, is told to those who listen or look elsewhere: to a screen reader, in the title, and as a notification on request. */
function taskMoved(task, before) {
  const undone = UNDONE.has(task.status);
  if (before == null && !undone) return;
  looked.moved(task);
  if (!undone || before === undefined) return;
  const said = `${nameOf(task)} ${task.status === "lost" ? "is lost" : "failed"}`;
  put(byId("announce"), said);
  if (preferences.get("notify") === "on" && document.hidden && globalThis.Notification?.permission === "granted") {
    const told = new Notification(said, { body: (task.error ?? "").slice(0, 200), tag: task.task_id });
    told.onclick = () => {
      focus();
      shell.go(["tasks", task.task_id]);
    };
  }
}

function drawTitle() {
  const { running, failed, lost } = tasks.totals;
  const news = looked.ended.failed.size + looked.ended.lost.size;
  const counted = [`${running} running`, failed && `${failed} failed`, lost && `${lost} lost`];
  const view = [...open.values()].pop()?.instance.title?.() ?? counted.filter(Boolean).join(", ");
  const title = `${news ? `(${news}) ` : ""}${tasks.known || view ? view : "Heliograph"} · Heliograph`;
  if (document.title !== title) document.title = title;
  const icon = document.querySelector("link[rel=icon]");
  const file = icon.href.replace(/favicon\w*/, news ? "favicon-failed" : "favicon");
  if (icon.href !== file) icon.href = file;
}

const rates = Array(RATE_SECONDS).fill(0);

setInterval(() => {
  drawState(streams.state);
  drawTitle();
  if (document.hidden) return;
  rates.shift();
  rates.push(tasks.received);
  tasks.received = 0;
  const recent = rates.slice(-3).reduce((sum, n) => sum + n, 0) / 3;
  put(byId("rate"), recent > 0 && recent < 10 ? recent.toFixed(1) : compact(Math.round(recent)));
  const highest = Math.max(...rates, 5);
  const points = rates.map((n, i) => `${((i / (RATE_SECONDS - 1)) * 90).toFixed(1)},${(20.5 - (n / highest) * 19).toFixed(1)}`).join(" ");
  const line = byId("spark").firstElementChild;
  if (line.getAttribute("points") !== points) line.setAttribute("points", points);
  tick(api.now());
  redraw(); // times go on
}, 1000);

// --- what the reader does ------------------------------------------------------------------------

const GOES = { f: "fleet", a: "analytics", w: "workflows", s: "status", c: "conversations" };
let going = false; // after "g"

async function palette() {
  const { choiceActions, openPalette, viewActions } = await import("./parts/palette.js");
  openPalette(shell, [...viewActions(shell, VIEWS), ...choiceActions(preferences), { title: "Keys", does: help }, { title: "Use another key", does: () => giveKey() }, { title: "Log out: forget the key", does: logOut }]);
}

async function help() {
  (await import("./parts/help.js")).openHelp();
}

/* Keys that mean the same in every view. */
function key(pressed) {
  const went = going;
  going = pressed === "g";
  if (pressed === "?") help();
  else if (went && GOES[pressed]) location.hash = format([VIEWS.find(({ name }) => name === GOES[pressed])?.path].filter(Boolean));
  else return going;
  return true;
}

addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    palette();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input, select, textarea");
  if (!typing && key(event.key)) return event.preventDefault();
  for (const { instance } of [...open.values()].reverse()) {
    if (!instance.key?.(event, typing)) continue;
    event.preventDefault();
    return;
  }
});

addEventListener("focusin", ({ target }) => {
  // A browser leaves what is partly in view where it is.
  if (target.closest("#views, .tools")) target.scrollIntoView({ inline: "nearest", block: "nearest" });
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address is none of a view
  ([...open.values()].pop()?.node ?? byId("main")).focus(); // of two that stand side by side, past the list
});
byId("open-palette").addEventListener("click", palette);
byId("banner").lastElementChild.addEventListener("click", () => {
  noticed = null;
  say(null);
});
for (const name of ["online", "offline", "pageshow", "focus"]) addEventListener(name, () => streams.wake());
document.addEventListener("visibilitychange", () => {
  looked.turn(document.hidden, api.now());
  if (!document.hidden) streams.wake();
});
addEventListener("pageshow", (event) => event.persisted && location.reload()); // its streams are gone
addEventListener("hashchange", navigate);
navigate();
tasks.begin();
