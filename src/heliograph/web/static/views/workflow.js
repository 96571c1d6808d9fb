/* One workflow: its pipeline with the states of its newest run, its runs, and the cards of its agents. */

import { paths } from "../core/api.js";
import { compact, duration, money } from "../core/format.js";
import { format } from "../core/route.js";
import { ago, figure, pill } from "../parts/chips.js";
import { h, renew } from "../parts/dom.js";
import { graph } from "../parts/graph.js";
import { Reload } from "../parts/reload.js";
import { empty, Pages, table } from "../parts/table.js";

const RELOAD_MS = 1_000;
const PAGE = 50;

export function open(shell, root, { values: { id } }) {
  const { api } = shell;
  const name = h("h1", {}, id);
  const about = h("span.quiet");
  const figures = h("dl.figures");
  const drawing = h("section.panel", {}, h("p.hint-block", { role: "status" }, "Loading…"));
  const cards = h("section.panel", { hidden: true });
  let known = null;
  let subscription = null;
  let closed = false;
  const reload = new Reload(load, RELOAD_MS);

  const runs = new Pages({
    caption: "Runs",
    columns: [
      { title: "Run", text: (run) => h("a", { href: format(["workflows", id, "runs", run.id]) }, run.id) },
      { title: "Status", text: (run) => pill(run.status) },
      { title: "Began", number: true, text: (run) => ago(run.started_at, shell.now()) },
      { title: "Duration", number: true, text: (run) => (run.duration_ms == null ? "" : duration(run.duration_ms)) },
      { title: "Steps", name: "optional", text: (run) => Object.entries(run.steps).filter(([, count]) => count).map(([status, count]) => `${count} ${status}`).join(", ") },
      { title: "Trigger", name: "optional", text: (run) => (run.trigger_type ?? "").replaceAll("_", " ") },
      { title: "Cost", number: true, text: (run) => (run.cost_usd == null ? "" : money(run.cost_usd)) },
      { title: "Error", name: "optional", text: (run) => (run.error ?? "").split("\n")[0].slice(0, 120) },
    ],
    key: (run) => run.id,
    none: () => empty("No runs yet", "A run appears here with its first event: run.started with workflow_id and run_id."),
    failed: (problem) => (problem.status === 404 ? (past.hidden = true) : shell.report(problem)), // runs outlive their workflow's files
    async fetch(cursor) {
      const page = await api.get(paths.runs(id), { limit: PAGE, start_after: cursor });
      return { rows: page.runs, next: page.meta.next_cursor };
    },
  });

  const past = h("section.panel", {}, h("h2", {}, "Runs"), runs.node);
  root.classList.add("view");
  root.append(
    h("header.view-head", {}, h("a.button", { href: format(["workflows"]), "aria-label": "Back to the workflows" }, "←"), name, about),
    h("div.view-body", {}, figures, drawing, past, cards),
  );

  async function load() {
    try {
      const [detail, newest] = await Promise.all([api.get(paths.workflow(id)), api.get(paths.runs(id), { limit: 1 })]);
      const last = newest.runs[0];
      const trace = last && (await api.get(paths.run(id, last.id)));
      if (closed) return;
      known = detail;
      show(detail, trace);
      subscription ??= shell.streams.subscribe({ channel: `workflow:${id}`, after: detail.meta.stream_cursor }, { message: reload.soon, gap: reload.soon, reset: reload.soon });
    } catch (problem) {
      if (closed) return;
      if (known) shell.report(problem);
      else renew(drawing, [empty(problem.status === 404 ? "There is no such workflow" : "This could not be loaded", problem.detail ?? problem.message, h("button", { onclick: load }, "Try again"))]);
    }
    runs.reload();
  }

  function show({ manifest, pipeline, agents, stats }, trace) {
    name.textContent = manifest.display_name.includes(manifest.icon) ? manifest.display_name || id : `${manifest.icon} ${manifest.display_name || id}`;
    about.textContent = [manifest.version && `version ${manifest.version}`, pipeline.strategy.toLowerCase(), manifest.description].filter(Boolean).join(" · ");
    const ended = stats.total - (stats.by_status.running ?? 0) - (stats.by_status.pending ?? 0) - (stats.by_status.paused ?? 0);
    renew(figures, [
      figure("Runs", compact(stats.total)),
      figure("Succeeded", ended ? `${Math.round((stats.successful / ended) * 100)} %` : "–"),
      figure("Running", compact(stats.by_status.running ?? 0)),
      figure("Median duration", stats.duration_ms.p50 == null ? "–" : duration(stats.duration_ms.p50)),
      figure("95 of 100 within", stats.duration_ms.p95 == null ? "–" : duration(stats.duration_ms.p95)),
      figure("Cost", money(stats.total_cost_usd)),
    ]);
    const states = Object.fromEntries((trace?.steps ?? []).map((step) => [step.name, step]));
    const choose = trace && ((step) => shell.go(["workflows", id, "runs", trace.run.id], { step }));
    const title = h("h2", {}, "Pipeline ", trace && pipeline.nodes.length ? h("a.quiet", { href: format(["workflows", id, "runs", trace.run.id]) }, "as in its newest run ", pill(trace.run.status)) : null);
    renew(drawing, [title, pipeline.nodes.length ? graph(pipeline, states, choose) : h("p.quiet", {}, "It has no pipeline.yaml.")]);
    cards.hidden = !agents.length;
    if (agents.length) renew(cards, [h("h2", {}, "Agents"), agentTable(agents)]);
  }

  load();
  return {
    title: () => known?.manifest.display_name || id,
    close() {
      closed = true;
      reload.close();
      subscription?.cancel();
    },
  };
}

function agentTable(agents) {
  return table(
    "Agents",
    [
      { title: "Agent", text: (card) => card.display_name || card.name },
      { title: "Type", text: (card) => card.type },
      { title: "Model", text: (card) => card.model ?? "" },
      { title: "Stage", number: true, name: "optional", text: (card) => String(card.stage) },
      { title: "Tools", name: "optional", text: (card) => card.tools.map((tool) => tool.name ?? tool).join(", ") },
      { title: "Description", name: "optional", text: (card) => card.description },
    ],
    agents,
  );
}
