/* The fleet: what needs attention first, then what runs, then what has ended.

   The filter, the grouping and the open task are in the address. */

import { paths } from "../core/api.js";
import { isSilent } from "../core/fleet.js";
import { compact, duration, money } from "../core/format.js";
import { format } from "../core/route.js";
import { h, put } from "../parts/dom.js";
import { TaskList } from "../parts/tasklist.js";
import { welcome } from "../parts/welcome.js";

const ORDER = ["failed", "lost", "waiting_input", "silent", "running", "queued", "completed", "cancelled"];
const TOTALS = ["running", "waiting_input", "queued", "failed", "lost", "completed", "cancelled"];
const FIRST = { failed: 5, lost: 5, waiting_input: 30, silent: 10, running: 100, queued: 30, completed: 40, cancelled: 15 };
const FIRST_OF_GROUP = 20;
const FILTERS = ["text", "agent", "model", "session_id", "sort"];
const GROUPS = { "": "Status", agent: "Agent", model: "Model", session_id: "Session" };
const SORTS = { "": "Newest first", cost: "Dearest first", duration: "Longest first" };
const LIST_MS = 200;
const TYPING_MS = 250;
const SPENT_MS = 30_000;
const GROUP = "group "; // before the name of a section
const FOLDED = "heliograph.folded";

export function open(shell, root, place) {
  const { tasks } = shell;
  const { fleet } = tasks;
  const filter = { text: "", agent: "", model: "", session_id: "", status: "", group: "", sort: "" };
  let selected = null; // id of the open task
  let drawn = 0;
  let force = false;
  let typing = null;
  let agentsKnown = "";

  const totals = Object.fromEntries(TOTALS.map((status) => [status, h("b", {}, "–")]));
  const bar = h(
    "div.totals",
    { id: "totals", role: "group", "aria-label": "Show only tasks of one status" },
    ...TOTALS.map((status) =>
      h("button", { dataset: { status }, title: `Only ${status.replace("_", " ")}`, "aria-pressed": "false", onclick: () => shell.amend({ status: filter.status === status ? "" : status }) }, h("i.dot"), totals[status], h("span", {}, ` ${status.replace("_input", "")}`)),
    ),
  );
  const spent = h("span.spent", { title: "The last hour" });
  const find = h("input", { id: "filter", type: "search", placeholder: "Filter by name, id, agent, model or error", autocomplete: "off", spellcheck: "false", "aria-label": "Filter tasks" });
  const agents = h("select", { id: "agent", "aria-label": "Agent" }, new Option("All agents", ""));
  const group = h("select", { id: "group", "aria-label": "Group by" }, ...Object.entries(GROUPS).map(([value, text]) => new Option(`By ${text.toLowerCase()}`, value)));
  const sort = h("select", { id: "sort", "aria-label": "Order" }, ...Object.entries(SORTS).map(([value, text]) => new Option(text, value)));
  const chosen = h("div.chosen");
  const pause = h("button", { id: "pause", "aria-pressed": "false", title: "Hold the list still (p)" }, "Pause");
  const looked = h("div.looked", { hidden: true }, h("span"), h("button", { "aria-label": "Dismiss" }, "✕"));
  const fresh = h("button.fresh-offer", { id: "fresh", hidden: true, title: "Show what is new (n)" });
  const sections = h("div", { id: "sections" });
  const behind = h("button.more", { hidden: true, onclick: () => tasks.groupsBehind().catch(shell.report) }, "More groups");
  const nothing = h("div", { id: "nothing", hidden: true }, h("p", {}, "No task matches this filter."), h("button", {}, "Clear the filter"));
  const loading = h("p.hint-block", { id: "loading", role: "status" }, "Loading the fleet…");
  const hello = welcome(shell.api.url("").href);
  const titles = [["Task"], ["Latest", "latest"], ["Agent", "agent"], ["Model", "model"], ["Lines", "num.lines"], ["Cost", "num.cost"], ["Duration", "num.duration"], ["When", "num.age"]];
  const head = h("div.head", { "aria-hidden": "true" }, h("span"), ...titles.map(([title, name]) => h(name ? `span.${name}` : "span", {}, title)));
  const scroll = h("div.scroll", { tabindex: "-1" }, head, sections, behind, nothing, loading, hello);
  root.id = "fleet";
  root.setAttribute("aria-label", "Fleet");
  root.append(h("h1.unseen", {}, "Fleet"), h("div.bar-row", {}, bar, spent), h("div.tools", {}, h("label.find", {}, find, h("kbd", { "aria-hidden": "true" }, "/")), pause, agents, group, sort), chosen, h("div.list", {}, fresh, scroll), looked);

  const folded = new Set(JSON.parse(localStorage.getItem(FOLDED) ?? '["cancelled"]'));
  const list = new TaskList(scroll, sections, { address, changed, more, folded });

  function address(id) {
    return format(["tasks", id], filter);
  }

  function changed(name) {
    if (name) {
      force = true;
      localStorage.setItem(FOLDED, JSON.stringify([...folded]));
    }
    fleet.dirty = true;
    shell.redraw();
  }

  /* The reader wants more rows of a section than are shown. */
  function more(name) {
    const asked = name.startsWith(GROUP) ? tasks.moreOf(name.slice(GROUP.length), filter.status) : tasks.more(name);
    asked.then(() => changed(name), shell.report);
    changed(name);
  }

  function moved({ values, query }) {
    const was = selected;
    selected = list.open = values.id ?? null;
    for (const name of Object.keys(filter)) filter[name] = query.get(name) ?? "";
    if (document.activeElement !== find) find.value = filter.text;
    agents.value = filter.agent;
    group.value = filter.group;
    sort.value = filter.sort;
    tasks.narrow(Object.fromEntries(FILTERS.map((name) => [name, filter[name]])), filter.group);
    list.readdress();
    if (was !== null && selected === null) list.focus(was);
    force = true;
    fleet.dirty = true;
  }

  function drawTotals() {
    for (const button of bar.children) {
      const { status } = button.dataset;
      put(totals[status], tasks.known ? compact(Math.max(0, tasks.counts[status])) : "–");
      button.setAttribute("aria-pressed", String(filter.status === status));
    }
  }

  /* Agents of the tasks that are known; all of them are in their own view. */
  function drawAgents() {
    const names = new Set(fleet.names("agent"));
    if (filter.agent) names.add(filter.agent);
    const sorted = [...names].sort();
    const key = JSON.stringify(sorted);
    if (agentsKnown === key) return;
    agentsKnown = key;
    agents.replaceChildren(new Option("All agents", ""), ...sorted.map((name) => new Option(name, name)));
    agents.value = filter.agent;
  }

  function drawChosen() {
    const given = ["model", "session_id"].filter((name) => filter[name]);
    const key = given.map((name) => `${name} ${filter[name]}`).join();
    if (chosen.dataset.key === key) return;
    chosen.dataset.key = key;
    chosen.replaceChildren(...given.map((name) => h("button.chip", { title: "Show all", onclick: () => shell.amend({ [name]: "" }) }, `${name.replace("_id", "")}: ${filter[name]} ✕`)));
  }

  function byStatus(found) {
    const now = shell.now();
    const silent = found.running.filter((task) => isSilent(task, now));
    const quiet = new Set(silent);
    found.silent = silent;
    found.running = found.running.filter((task) => !quiet.has(task));
    const counts = { ...tasks.counts, silent: tasks.silent, running: tasks.counts.running - Math.max(silent.length, tasks.silent) };
    return ORDER.filter((name) => !filter.status || filter.status === name || (name === "silent" && filter.status === "running")).map((name) => {
      const rows = found[name];
      // Of a task that is counted and not here, news has come since it was counted.
      const any = rows.length > 0 || name === "silent" || tasks.hasMore(name);
      return { name, status: name === "silent" ? "running" : name, tasks: rows, total: any ? Math.max(rows.length, counts[name]) : 0, first: FIRST[name] };
    });
  }

  /* The groups and their counts are the service's; what it has not counted yet is there as well, as far as there is room. */
  function byGroup(found) {
    const groups = new Map((tasks.groups ?? []).map(({ name, counts }) => [name, { counts, rows: [] }]));
    const statuses = ORDER.filter((name) => found[name] && (!filter.status || filter.status === name));
    for (const status of statuses) {
      for (const task of found[status]) {
        const name = task[filter.group] ?? "";
        if (!groups.has(name)) groups.set(name, { counts: {}, rows: [] });
        groups.get(name).rows.push(task);
      }
    }
    const shown = [...groups].slice(0, tasks.wantedGroups).map(([name, { counts, rows }]) => {
      const counted = statuses.reduce((sum, status) => sum + (counts[status] ?? 0), 0);
      const worst = statuses.find((status) => counts[status] || rows.some((task) => task.status === status));
      return { name: `${GROUP}${name}`, title: name || `No ${GROUPS[filter.group].toLowerCase()}`, status: worst, tasks: rows, total: Math.max(rows.length, counted), first: FIRST_OF_GROUP };
    });
    return shown.filter(({ total }) => total > 0);
  }

  function draw(now) {
    if (now - drawn < LIST_MS && !force) return void (fleet.dirty && shell.redrawSoon());
    drawn = now;
    fleet.dirty = false;
    const found = fleet.sections(filter);
    const shown = filter.group ? byGroup(found) : byStatus(found);
    list.arrange(shown, force);
    force = false;
    const any = shown.some(({ total }) => total > 0);
    const total = Object.values(tasks.totals).reduce((sum, count) => sum + count, 0);
    const settled = tasks.known && !list.waits; // rows that are held are still there
    nothing.hidden = !settled || any || total === 0;
    behind.hidden = !filter.group || !tasks.moreGroups;
    fresh.hidden = !list.waits;
    put(fresh, list.pending ? `${compact(list.pending)} new` : "New order");
    list.draw((id) => fleet.get(id), shell.now(), shell.preferences.get("times") === "absolute");
    tasks.watch(document.hidden ? [] : list.inView);
    drawTotals();
    drawAgents();
    drawChosen();
    drawLooked();
    loading.hidden = tasks.known;
    hello.hidden = !settled || any || total > 0;
    root.classList.toggle("empty", settled && total === 0 && !any);
  }

  /* What ended while nobody looked. */
  function drawLooked() {
    const { since, ended } = shell.looked;
    const said = Object.entries(ended).filter(([, ids]) => ids.size).map(([status, ids]) => `${compact(ids.size)} ${status}`);
    looked.hidden = !said.length || document.hidden;
    if (!looked.hidden) put(looked.firstElementChild, `Since you looked, ${duration(shell.now() - since)} ago: ${said.join(", ")}`);
  }

  async function drawSpent() {
    try {
      const { cost_usd, total_tokens, tasks: ended } = await shell.api.get(paths.summary, { from: "-1h" });
      put(spent, ended ? `Last hour: ${money(cost_usd)} · ${compact(total_tokens)} tokens · ${compact(ended)} ended` : "");
    } catch {
      // it is asked again
    }
  }

  function step(by) {
    const links = list.links();
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    const from = at >= 0 ? at : links.findIndex((link) => link.hasAttribute("aria-current"));
    links[from < 0 ? 0 : Math.max(0, Math.min(links.length - 1, from + by))].focus();
  }

  function key({ key: name, target }, writing) {
    const inList = target.contains(root) || root.contains(target);
    if (name === "Escape" && target === find) {
      find.value = "";
      find.blur();
      shell.amend({ text: "" });
    } else if (target === find && (name === "ArrowDown" || name === "Enter")) step(1);
    else if (writing) return false;
    else if (name === "/" && (selected === null || inList)) find.focus();
    else if (name === "j" || (name === "ArrowDown" && inList)) step(1);
    else if (name === "k" || (name === "ArrowUp" && inList)) step(-1);
    else if (name === "p") pause.click();
    else if (name === "n" && selected === null && !fresh.hidden) fresh.click();
    else if (name === "Escape" && selected !== null) shell.go([], filter);
    else return false;
    return true;
  }

  find.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => shell.amend({ text: find.value.trim() }), TYPING_MS);
  });
  agents.addEventListener("change", () => shell.amend({ agent: agents.value }));
  sort.addEventListener("change", () => shell.amend({ sort: sort.value }));
  group.addEventListener("change", () => shell.amend({ group: group.value }));
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
  looked.lastElementChild.addEventListener("click", () => {
    shell.looked.forget();
    changed();
  });
  nothing.querySelector("button").addEventListener("click", () => {
    find.value = "";
    shell.amend(Object.fromEntries(Object.keys(filter).map((name) => [name, ""])));
  });

  const unwatch = () => document.hidden && tasks.watch([]); // a hidden page draws nothing
  document.addEventListener("visibilitychange", unwatch);
  moved(place);
  drawSpent();
  const spending = setInterval(() => document.hidden || drawSpent(), SPENT_MS);
  function close() {
    clearInterval(spending);
    tasks.watch([]);
    document.removeEventListener("visibilitychange", unwatch);
  }

  return { draw, moved, key, close };
}
