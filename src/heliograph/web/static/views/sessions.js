/* Sessions: what the tasks that name one add up to, the one that was seen last first. */

import { paths } from "../core/api.js";
import { compact, money } from "../core/format.js";
import { format } from "../core/route.js";
import { ago } from "../parts/chips.js";
import { h } from "../parts/dom.js";
import { empty, Pages } from "../parts/table.js";

const RELOAD_MS = 5_000;
const PAGE = 50;

export function open(shell, root) {
  const { api } = shell;
  const tasksOf = (session, status) => (session.tasks[status] ? h("a", { href: format([], { session_id: session.session_id, status }) }, compact(session.tasks[status])) : h("span.quiet", {}, "0"));
  const list = new Pages({
    caption: "Sessions",
    columns: [
      { title: "Session", text: (one) => h("a", { href: format([], { session_id: one.session_id }) }, one.session_id) },
      { title: "Running", number: true, text: (one) => tasksOf(one, "running") },
      { title: "Completed", number: true, text: (one) => tasksOf(one, "completed") },
      { title: "Failed", number: true, text: (one) => tasksOf(one, "failed") },
      { title: "Tokens", number: true, name: "optional", text: (one) => compact(one.input_tokens + one.output_tokens) },
      { title: "Cost", number: true, text: (one) => money(one.cost_usd) },
      { title: "First seen", number: true, name: "optional", text: (one) => ago(one.first_seen, shell.now()) },
      { title: "Last seen", number: true, text: (one) => ago(one.last_seen, shell.now()) },
    ],
    key: ({ session_id }) => session_id,
    none: () => empty("No sessions yet", "A session appears here with the first task that names one, in the field session_id of task.created."),
    failed: shell.report,
    async fetch(cursor) {
      const { sessions, meta } = await api.get(paths.sessions, { limit: PAGE, cursor });
      return { rows: sessions, next: meta.next_cursor };
    },
  });
  root.classList.add("view");
  root.append(h("header.view-head", {}, h("h1", {}, "Sessions")), h("div.view-body", {}, list.node));
  list.reload();
  const timer = setInterval(() => document.hidden || list.reload(), RELOAD_MS);
  return { title: () => "Sessions", close: () => clearInterval(timer) };
}
