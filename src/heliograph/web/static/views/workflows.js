/* Every workflow: what it is, how its runs go, and its switch. */

import { paths } from "../core/api.js";
import { compact } from "../core/format.js";
import { format } from "../core/route.js";
import { ago, pill } from "../parts/chips.js";
import { h, renew } from "../parts/dom.js";
import { Reload } from "../parts/reload.js";
import { empty, table } from "../parts/table.js";

const RELOAD_MS = 1_500;

export function open(shell, root) {
  const { api } = shell;
  const body = h("div.view-body", {}, h("p.hint-block", { role: "status" }, "Loading…"));
  root.classList.add("view");
  root.append(h("header.view-head", {}, h("h1", {}, "Workflows")), body);
  let subscription = null;
  let closed = false;
  const reload = new Reload(load, RELOAD_MS);

  async function load() {
    try {
      const found = await api.get(paths.workflows);
      if (closed) return;
      show(found);
      subscription ??= shell.streams.subscribe({ channel: "workflow:*", every: 1 }, { message: reload.soon });
    } catch (problem) {
      if (!closed) renew(body, [empty("The workflows could not be loaded", problem.message, h("button", { onclick: load }, "Try again"))]);
    }
  }

  const columns = [
    { title: "Workflow", text: (one) => h("a", { href: format(["workflows", one.id]) }, !one.display_name.includes(one.icon) && h("span.icon", { "aria-hidden": "true" }, one.icon), one.display_name || one.id) },
    { title: "Last run", text: (one) => (one.last_run ? h("a", { href: format(["workflows", one.id, "runs", one.last_run.id]) }, pill(one.last_run.status), " ", ago(one.last_run.started_at, shell.now())) : "never") },
    { title: "Runs", number: true, text: (one) => compact(one.total_runs) },
    { title: "Success", number: true, text: (one) => (one.total_runs ? `${Math.round(one.success_rate)} %` : "–") },
    { title: "Steps", number: true, name: "optional", text: (one) => (one.step_count ? `${one.step_count} ${one.strategy.toLowerCase()}` : "none") },
    { title: "Agents", number: true, name: "optional", text: (one) => String(one.agent_count) },
    { title: "Triggers", name: "optional", text: (one) => one.triggers.map(({ type }) => type.replaceAll("_", " ")).join(", ") },
    { title: "On", text: (one) => toggle(one) },
  ];

  function show({ workflows, broken }) {
    const problems = [...broken.map(({ problems: found, ...one }) => [one.id ?? one.name ?? one.folder, found]), ...workflows.filter((one) => one.problems.length).map((one) => [one.id, one.problems])];
    renew(body, [
      workflows.length ? table("Workflows", columns, workflows, ({ id }) => id) : empty("No workflows yet", "Put a folder for each into the folder of workflows (HELIOGRAPH_WORKFLOWS): a manifest.yaml, and a pipeline.yaml for its steps.", "They appear here within a second."),
      problems.length ? h("section.panel.problems", {}, h("h2", {}, "Mistakes in files"), h("ul", {}, ...problems.flatMap(([name, found]) => [found].flat().map((one) => h("li", {}, h("b", {}, `${name}: `), said(one)))))) : null,
    ].filter(Boolean));
  }

  function toggle(one) {
    async function onchange({ target }) {
      try {
        await api.send("PATCH", paths.workflow(one.id), { enabled: target.checked });
      } catch (problem) {
        target.checked = !target.checked;
        shell.report(problem);
      }
    }
    return h("input.switch", { type: "checkbox", role: "switch", "aria-label": `${one.display_name || one.id} is on`, checked: one.enabled, onchange });
  }

  load();
  return {
    title: () => "Workflows",
    close() {
      closed = true;
      reload.close();
      subscription?.cancel();
    },
  };
}

function said(problem) {
  if (typeof problem === "string") return problem;
  return [problem.file, problem.line && `line ${problem.line}`, problem.message ?? problem.detail].filter(Boolean).join(", ");
}
