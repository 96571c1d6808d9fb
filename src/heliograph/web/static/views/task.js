/* One task: what is known of it, and its log with its own events.

   The task is fetched once and goes on from its channel, apart from the fleet's list, so that it is whole whatever
   that shows. */

import { paths } from "../core/api.js";
import { agentOf, isDemo, nameOf } from "../core/fleet.js";
import { bytes, count, duration, moment, money } from "../core/format.js";
import { format } from "../core/route.js";
import { fold, TERMINAL } from "../core/task.js";
import { copied, fill, h, put } from "../parts/dom.js";
import { AnswerBox } from "../parts/answer.js";
import { Log } from "../parts/log.js";
import { Search } from "../parts/search.js";
import { tree } from "../parts/tree.js";

const OWN_EVENTS = ["task.status", "task.question", "task.input", "task.thinking", "task.tool_call", "task.tool_result", "task.progress", "task.cost", "tool.*", "model.*", "agent.*"];
const EVENTS = 200; // of each
const ERROR_CHARS = 20_000;
const TIMES = { clock: "Clock", elapsed: "Elapsed", off: "No times" };
const SHOWN = "heliograph.log";

export function open(shell, root, place) {
  let reading = null;

  function moved(next) {
    if (reading?.id !== next.values.id) {
      reading?.close();
      reading = read(shell, root, next.values.id, next.query);
    } else {
      reading.moved(next.query);
    }
  }

  moved(place);
  return {
    moved,
    title: () => reading.title(),
    draw: () => reading.draw(),
    key: (event, typing) => reading.key(event, typing),
    close: () => reading.close(),
  };
}

function read(shell, root, id, query) {
  const { api } = shell;
  let task = null; // as it is known, folded live
  let closed = false;
  let subscription = null;
  let line = lineOf(query);
  let lasting = query;

  const back = h("a.button", { id: "close", href: "#/", "aria-label": "Back to the fleet", title: "Back to the fleet (Esc)" }, "←");
  const status = h("span.pill", { id: "log-status" });
  const name = h("h1", { id: "log-name" }, id);
  const demo = h("i.badge", { id: "log-demo", hidden: true }, "demo");
  const copy = h("button", { id: "copy-link", onclick: ({ target }) => copied(target, location.href) }, "Copy link");
  const full = h("a.button", { id: "full", href: api.url(paths.fullLog(id)).href, download: `${id}.log` }, "Full log");
  const facts = h("dl", { id: "facts", tabindex: "0" });
  const failure = h("p", { id: "failure", hidden: true, tabindex: "0", "aria-label": "Error" });
  const details = h("details", { id: "details", hidden: true }, h("summary", {}, "Input and result"), h("div.tree"));
  const times = h("select.optional", { id: "times", "aria-label": "Times" }, ...Object.entries(TIMES).map(([value, text]) => new Option(text, value)));
  const stderr = h("button.optional", { id: "stderr", "aria-pressed": "false", title: "Only what was written to stderr" }, "stderr only");
  const wrap = h("button.optional", { id: "wrap", "aria-pressed": "true" }, "Wrap");
  const position = h("span", { id: "position" });
  const oldest = h("button", { id: "to-top" }, "Oldest");
  const follow = h("button", { id: "follow", "aria-pressed": "true" }, "Follow");
  const terminal = h("div.terminal");
  const answer = new AnswerBox({ api, id, failed: shell.report, left: toLog, redraw: shell.redraw });
  const search = new Search({ api, id, from: () => log.at, go: (seq) => log.go(seq), left: toLog, failed: shell.report });
  root.id = "log";
  root.classList.remove("gone");
  root.setAttribute("aria-labelledby", "log-name");
  root.replaceChildren(
    h("header", {}, h("div.title", {}, back, status, name, demo, h("span.gap"), copy, full), facts, failure, details),
    answer.node,
    search.node,
    terminal,
    h("footer", {}, position, h("span.gap"), times, stderr, wrap, oldest, follow),
  );
  const log = new Log(terminal, {
    api,
    id,
    task: () => task,
    address: (seq) => format(["tasks", id], { ...Object.fromEntries(lasting), line: seq }),
    redraw: shell.redraw,
    failed: shell.report,
  });
  const shown = JSON.parse(localStorage.getItem(SHOWN) ?? "{}");
  show({ times: shown.times ?? "clock", wrap: shown.wrap ?? true });
  back.href = addressOfFleet();
  load();
  toLog();

  function toLog() {
    log.scroller.focus({ preventScroll: true });
  }

  async function load() {
    subscription?.cancel();
    subscription = null;
    try {
      const answer = await api.get(paths.task(id));
      if (closed) return;
      const { meta, ...known } = answer;
      task = known;
      drawDetails();
      subscription = shell.streams.subscribe(
        { channel: `task:${id}`, after: meta.stream_cursor, seq: task.last_seq, last: task.last_event_id },
        { message: take, gap: load, reset: load },
      );
      await log.load(events, line);
    } catch (problem) {
      if (closed) return;
      root.classList.toggle("gone", problem.status === 404);
      log.say(problem.status === 404 ? "There is no such task." : problem.message);
      if (problem.status !== 404) shell.report(problem);
      if (!problem.status) setTimeout(() => closed || load(), 2_000);
    }
    shell.redraw();
  }

  /* The task's own events, which stand between the lines of its log. */
  async function events() {
    const pages = await Promise.all(OWN_EVENTS.map((topic) => api.get(paths.events, { channel: `task:${id}`, topic, limit: EVENTS })));
    const found = pages.flatMap((page) => page.events);
    for (const event of found) answer.take(event);
    return found;
  }

  function take(message) {
    fold(task, message);
    log.take(message);
    answer.take(message);
    if (message.type === "task_status" && message.result != null) drawDetails();
    shell.redrawSoon();
  }

  function show(change) {
    log.show(change);
    localStorage.setItem(SHOWN, JSON.stringify(log.shown));
    times.value = log.shown.times;
    wrap.setAttribute("aria-pressed", String(log.shown.wrap));
  }

  function draw() {
    if (task) drawTask();
    log.draw();
    put(position, log.position);
    follow.setAttribute("aria-pressed", String(log.following));
  }

  function drawTask() {
    root.dataset.status = task.status;
    put(status, task.status.replace("_", " "));
    put(name, nameOf(task));
    name.title = nameOf(task); // there may be no room for it
    demo.hidden = !isDemo(task);
    failure.hidden = !task.error;
    put(failure, (task.error ?? "").slice(0, ERROR_CHARS));
    drawFacts(facts, factsOf(task, shell.now()));
    answer.draw(task);
  }

  function drawDetails() {
    const given = ["input", "metadata", "result"].filter((field) => task[field] != null);
    details.hidden = !given.length;
    fill(details.lastElementChild, given.map((field) => tree(field, task[field], true)));
  }

  function addressOfFleet() {
    const { line: _, ...rest } = Object.fromEntries(lasting);
    return format([], rest);
  }

  function moved(next) {
    lasting = next;
    back.href = addressOfFleet();
    if (lineOf(next) !== null && lineOf(next) !== line) log.go(lineOf(next));
    line = lineOf(next);
  }

  function key({ key: pressed }, typing) {
    if (typing) return false;
    if (pressed === "w") show({ wrap: !log.shown.wrap });
    else if (pressed === "s") search.input.focus();
    else if (pressed === "n" || pressed === "N") search.step(pressed === "n" ? 1 : -1);
    else if (pressed === "e" || pressed === "E") search.error(pressed === "e" ? 1 : -1);
    else if (pressed === "a") return answer.focus();
    else if (pressed === "f") log.follow(!log.following);
    else return false;
    return true;
  }

  times.addEventListener("change", () => show({ times: times.value }));
  wrap.addEventListener("click", () => show({ wrap: !log.shown.wrap }));
  stderr.addEventListener("click", () => {
    log.narrow(log.only ? null : "stderr");
    stderr.setAttribute("aria-pressed", String(log.only !== null));
    log.load(events).catch(shell.report);
  });
  follow.addEventListener("click", () => log.follow(!log.following));
  oldest.addEventListener("click", () => log.oldest());
  function close() {
    closed = true;
    subscription?.cancel();
    log.close();
    search.close();
  }

  return { id, draw, moved, key, close, title: () => (task ? nameOf(task) : id) };
}

function lineOf(query) {
  const seq = Number(query.get("line"));
  return Number.isInteger(seq) && seq > 0 ? seq : null;
}

function factsOf(task, now) {
  const begun = task.started_at ?? task.created_at;
  const lasted = TERMINAL.has(task.status) ? task.duration_ms : task.status === "queued" ? null : now - Date.parse(begun);
  const tokens = task.input_tokens == null && task.output_tokens == null ? null : `${count(task.input_tokens ?? 0)} in, ${count(task.output_tokens ?? 0)} out`;
  return [
    ["Task", task.task_id],
    ["Agent", [agentOf(task), task.agent_type && task.agent_type !== task.agent && `(${task.agent_type})`].filter(Boolean).join(" ")],
    ["Model", task.model],
    ["Session", task.session_id],
    [task.started_at ? "Started" : "Created", moment(begun, now)],
    ["Duration", lasted == null ? null : duration(lasted)],
    ["Output", task.output_lines ? `${count(task.output_lines)} ${task.output_lines === 1 ? "line" : "lines"}, ${bytes(task.output_bytes)}` : null],
    ["Tokens", tokens],
    ["Cost", task.cost_usd == null ? null : money(task.cost_usd)],
  ].filter(([, value]) => value);
}

function drawFacts(list, facts) {
  while (list.children.length > facts.length) list.lastElementChild.remove();
  facts.forEach(([name, value], i) => {
    const fact = list.children[i] ?? list.appendChild(h("div", {}, h("dt"), h("dd")));
    put(fact.firstElementChild, name);
    put(fact.lastElementChild, value);
  });
}
