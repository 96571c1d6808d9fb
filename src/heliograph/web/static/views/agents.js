/* The agents of the fleet: what each has done, what it does now, when it was last heard of. */

import { paths } from "../core/api.js";
import { compact } from "../core/format.js";
import { format } from "../core/route.js";
import { ago } from "../parts/chips.js";
import { h } from "../parts/dom.js";
import { empty, Pages } from "../parts/table.js";

const RELOAD_MS = 5_000;
const PAGE = 100;

export function open(shell, root) {
  const { api } = shell;
  const tasksOf = (agent, status) => (agent.tasks[status] ? h("a", { href: format([], { agent: agent.name, status }) }, compact(agent.tasks[status])) : h("span.quiet", {}, "0"));
  const columns = [
    { title: "Agent", text: (agent) => h("a", { href: format([], { agent: agent.name }) }, agent.name) },
    { title: "Type", name: "optional", text: (agent) => agent.agent_type ?? "" },
    { title: "Running", number: true, text: (agent) => tasksOf(agent, "running") },
    { title: "Waiting", number: true, name: "optional", text: (agent) => tasksOf(agent, "waiting_input") },
    { title: "Queued", number: true, name: "optional", text: (agent) => tasksOf(agent, "queued") },
    { title: "Completed", number: true, text: (agent) => tasksOf(agent, "completed") },
    { title: "Failed", number: true, text: (agent) => tasksOf(agent, "failed") },
    { title: "Success", number: true, text: (agent) => success(agent.tasks) },
    { title: "Last heard", number: true, text: (agent) => ago(agent.last_seen, shell.now()) },
  ];
  const list = new Pages({
    caption: "Agents",
    columns,
    key: ({ name }) => name,
    none: () => empty("No agents yet", "An agent appears here with its first task: name it with heliograph exec --agent NAME, or in the field agent of task.created."),
    failed: shell.report,
    async fetch(cursor) {
      const { agents, meta } = await api.get(paths.agents, { limit: PAGE, cursor });
      return { rows: agents, next: meta.next_cursor };
    },
  });
  root.classList.add("view");
  root.append(h("header.view-head", {}, h("h1", {}, "Agents")), h("div.view-body", {}, list.node));
  list.reload();
  const timer = setInterval(() => document.hidden || list.reload(), RELOAD_MS);
  return { title: () => "Agents", close: () => clearInterval(timer) };
}

function success({ completed = 0, failed = 0, cancelled = 0, lost = 0 }) {
  const ended = completed + failed + cancelled + lost;
  return ended ? `${Math.round((completed / ended) * 100)} %` : "–";
}
