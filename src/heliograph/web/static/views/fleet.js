/* The fleet: what needs attention first, then what runs, then what has ended. */

import { format } from "../core/route.js";
import { compact } from "../core/format.js";
import { TERMINAL } from "../core/task.js";
import { fill, h, put } from "../parts/dom.js";
import { TaskList } from "../parts/tasklist.js";
import { welcome } from "../parts/welcome.js";

const ORDER = ["failed", "waiting_input", "running", "queued", "completed", "cancelled"];
const TOTALS = ["running", "waiting_input", "queued", "failed", "completed", "cancelled"];
const FIRST = { running: 100, queued: 30, failed: 15, completed: 40, cancelled: 15, waiting_input: 30 };
const FILTERS = ["text", "agent", "status"];
const LIST_MS = 200;
const SEARCH_MS = 300;
const FOLDED = "heliograph.folded";

export function open(shell, root, place) {
  const { tasks } = shell;
  const { fleet } = tasks;
  const filter = { text: "", agent: "", status: "" };
  let selected = null; // id of the open task
  let drawn = 0;
  let arranged = null;
  let force = false;
  let searching = null;

  const totals = Object.fromEntries(TOTALS.map((status) => [status, h("b", {}, "–")]));
  const bar = h(
    "div.totals",
    { id: "totals", role: "group", "aria-label": "Show only tasks of one status" },
    ...TOTALS.map((status) =>
      h("button", { dataset: { status }, "aria-pressed": "false", onclick: () => refilter({ status: filter.status === status ? "" : status }) }, h("i.dot"), totals[status], h("span", {}, ` ${status.replace("_input", "")}`)),
    ),
  );
  const find = h("input", { id: "filter", type: "search", placeholder: "Filter by name, id, agent, model or error", autocomplete: "off", spellcheck: "false", "aria-label": "Filter tasks" });
  const agents = h("select", { id: "agent", "aria-label": "Agent" }, new Option("All agents", ""));
  const pause = h("button", { id: "pause", "aria-pressed": "false", title: "Hold the list still" }, "Pause");
  const fresh = h("button.fresh-offer", { id: "fresh", hidden: true });
  const sections = h("div", { id: "sections" });
  const older = h("div", { id: "older", hidden: true }, h("button", {}, "Load older tasks"));
  const nothing = h("div", { id: "nothing", hidden: true }, h("p", {}, "No task matches this filter."), h("button", {}, "Clear the filter"));
  const loading = h("p.hint-block", { id: "loading", role: "status" }, "Loading the fleet…");
  const hello = welcome(shell.api.url("").href);
  const head = h(
    "div.head",
    { "aria-hidden": "true" },
    h("span"),
    ...[["Task"], ["Latest", "latest"], ["Agent", "agent"], ["Model", "model"], ["Lines", "num.lines"], ["Cost", "num.cost"], ["Duration", "num.duration"], ["Age", "num.age"]].map(([title, name]) => h(name ? `span.${name}` : "span", {}, title)),
  );
  const scroll = h("div.scroll", { tabindex: "-1" }, head, sections, older, nothing, loading, hello);
  root.id = "fleet";
  root.setAttribute("aria-label", "Fleet");
  root.append(h("h1.unseen", {}, "Fleet"), bar, h("div.tools", {}, h("label.find", {}, find, h("kbd", { "aria-hidden": "true" }, "/")), agents, pause), h("div.list", {}, fresh, scroll));

  const folded = new Set(JSON.parse(localStorage.getItem(FOLDED) ?? '["cancelled"]'));
  const list = new TaskList(scroll, sections, { address, changed, folded });

  function address(id) {
    return format(["tasks", id], filter);
  }

  function changed(name) {
    if (name) {
      force = true;
      localStorage.setItem(FOLDED, JSON.stringify([...folded]));
    }
    arranged = null;
    fleet.dirty = true;
    shell.redraw();
  }

  function refilter(change) {
    shell.amend(Object.fromEntries(Object.entries(change).map(([name, value]) => [name, value.trim?.() ?? value])));
    const text = filter.text;
    clearTimeout(searching);
    // What is not loaded can only be found by the service.
    if (tasks.older && text) searching = setTimeout(() => tasks.search(text).catch(shell.report), SEARCH_MS);
  }

  function moved({ values, query }) {
    const was = selected;
    selected = list.open = values.id ?? null;
    for (const name of FILTERS) filter[name] = query.get(name) ?? "";
    if (find.value.trim() !== filter.text) find.value = filter.text;
    agents.value = filter.agent;
    for (const link of list.links()) link.href = address(decodeURIComponent(link.hash.replace(/^#\/tasks\/|\?.*$/g, "")));
    if (was !== null && selected === null) list.focus(was);
    force = true;
    arranged = null;
    fleet.dirty = true;
  }

  function drawTotals(counts) {
    for (const button of bar.children) {
      const { status } = button.dataset;
      const open = tasks.older && TERMINAL.has(status);
      put(totals[status], tasks.known ? compact(counts[status]) + (open ? "+" : "") : "–");
      button.setAttribute("aria-pressed", String(filter.status === status));
    }
  }

  function drawAgents() {
    const names = fleet.agents();
    if (filter.agent && !names.includes(filter.agent)) names.push(filter.agent);
    const key = JSON.stringify(names);
    if (agents.dataset.names === key) return;
    agents.dataset.names = key;
    agents.replaceChildren(new Option("All agents", ""), ...names.map((name) => new Option(name, name)));
    agents.value = filter.agent;
  }

  function draw(now) {
    if (now - drawn < LIST_MS && !force) return void (fleet.dirty && shell.redrawSoon());
    drawn = now;
    fleet.dirty = false;
    const counts = fleet.totals();
    let matching = 0;
    if (arranged !== fleet.version || !list.held) {
      const found = fleet.sections(filter);
      const shown = ORDER.filter((status) => (!filter.status || filter.status === status) && found[status]);
      list.arrange(
        shown.map((status) => ({ name: status, status, tasks: found[status], total: found[status].length, exact: !tasks.older || !TERMINAL.has(status), first: FIRST[status] })),
        force,
      );
      matching = shown.reduce((sum, status) => sum + found[status].length, 0);
      nothing.hidden = fleet.size === 0 || matching > 0;
      arranged = fleet.version;
      force = false;
    }
    fresh.hidden = list.pending === 0;
    put(fresh, `${list.pending} new`);
    list.draw((id) => fleet.get(id), shell.now(), shell.preferences.get("times") === "absolute");
    drawTotals(counts);
    drawAgents();
    loading.hidden = tasks.known;
    hello.hidden = !tasks.known || fleet.size > 0;
    older.hidden = !tasks.older;
    root.classList.toggle("empty", tasks.known && fleet.size === 0);
    if (selected === null) document.title = `${counts.failed ? `${counts.failed} failed, ` : ""}${counts.running} running · Heliograph`;
  }

  function step(by) {
    const links = list.links();
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    const from = at >= 0 ? at : links.findIndex((link) => link.hasAttribute("aria-current"));
    links[from < 0 ? 0 : Math.max(0, Math.min(links.length - 1, from + by))].focus();
  }

  function key({ key: name, target }, typing) {
    const inList = target === document.body || root.contains(target);
    if (name === "Escape" && target === find) {
      find.value = "";
      find.blur();
      refilter({ text: "" });
    } else if (typing) return false;
    else if (name === "/") find.focus();
    else if (name === "j" || (name === "ArrowDown" && inList)) step(1);
    else if (name === "k" || (name === "ArrowUp" && inList)) step(-1);
    else if (name === "p") pause.click();
    else if (name === "n" && selected === null && !fresh.hidden) fresh.click();
    else if (name === "Escape" && selected !== null) shell.go([], filter);
    else return false;
    return true;
  }

  find.addEventListener("input", () => refilter({ text: find.value }));
  agents.addEventListener("change", () => refilter({ agent: agents.value }));
  pause.addEventListener("click", () => {
    list.paused = !list.paused;
    pause.setAttribute("aria-pressed", String(list.paused));
    changed();
  });
  fresh.addEventListener("click", () => {
    force = true;
    scroll.scrollTop = 0;
    changed();
  });
  nothing.querySelector("button").addEventListener("click", () => {
    find.value = "";
    refilter({ text: "", agent: "", status: "" });
  });
  older.querySelector("button").addEventListener("click", () => tasks.loadOlder().catch(shell.report));

  moved(place);
  return { draw, moved, key };
}
