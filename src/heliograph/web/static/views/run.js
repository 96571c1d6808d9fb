/* One run: its steps over time and as a graph, and what each of them left behind; right while it runs. */

import { paths } from "../core/api.js";
import { count, duration, moment, money } from "../core/format.js";
import { format } from "../core/route.js";
import { figure, pill } from "../parts/chips.js";
import { fill, h, put, renew } from "../parts/dom.js";
import { graph } from "../parts/graph.js";
import { Reload } from "../parts/reload.js";
import { empty } from "../parts/table.js";
import { tree } from "../parts/tree.js";
import { Waterfall } from "../parts/waterfall.js";

const RELOAD_MS = 400;

export function open(shell, root, place) {
  const { api } = shell;
  const { id, run: runId } = place.values;
  const status = h("span");
  const figures = h("dl.figures");
  const failure = h("p.failure", { hidden: true });
  const drawing = h("section.panel", { hidden: true });
  const detail = h("section.panel.step-detail", { hidden: true, tabindex: "-1", "aria-live": "polite" });
  const waterfall = new Waterfall((step) => shell.amend({ step }));
  const times = h("section.panel", {}, h("h2", {}, "Steps"), waterfall.node);
  const none = h("p.quiet", {}, "It has told of no steps.");
  const more = h("button.more", { hidden: true, onclick: () => loadMore() }, "More steps");
  const loading = h("p.hint-block", { role: "status" }, "Loading…");
  let pipeline = null;
  let trace = null;
  let steps = [];
  let chosen = place.query.get("step");
  let subscription = null;
  let closed = false;
  const reload = new Reload(load, RELOAD_MS);
  times.hidden = true;
  times.append(none, more);
  root.classList.add("view");
  root.append(
    h("header.view-head", {}, h("a.button", { href: format(["workflows", id]), "aria-label": "Back to the workflow" }, "←"), h("h1", {}, runId), status, h("span", {}, "of ", h("a", { href: format(["workflows", id]) }, id))),
    h("div.view-body", {}, loading, figures, failure, drawing, times, detail),
  );

  async function load() {
    try {
      pipeline ??= await api.get(paths.pipeline(id)).catch(() => ({ nodes: [], edges: [], layers: [] })); // runs outlive their files
      const found = await api.get(paths.run(id, runId));
      if (closed) return;
      trace = found;
      steps = [...found.steps, ...steps.slice(found.steps.length)];
      show();
      subscription ??= shell.streams.subscribe({ channel: `workflow:${id}`, after: found.meta.stream_cursor }, { message: heard, gap: reload.soon, reset: reload.soon });
    } catch (problem) {
      if (closed) return;
      if (trace) shell.report(problem);
      else fill(loading, [empty(problem.status === 404 ? "There is no such run" : "This could not be loaded", problem.detail ?? problem.message, h("button", { onclick: load }, "Try again"))]);
    }
  }

  async function loadMore() {
    try {
      const next = await api.get(paths.run(id, runId), { start_after: trace.meta.next_cursor });
      steps = [...steps, ...next.steps];
      trace.meta.next_cursor = next.meta.next_cursor;
      show();
    } catch (problem) {
      shell.report(problem);
    }
  }

  /* Of the workflow's events those of this run. */
  function heard({ payload = {}, correlation_id }) {
    if ([payload.run_id, payload.execution_id, correlation_id].includes(runId)) reload.soon();
  }

  function show() {
    const { run } = trace;
    loading.hidden = true;
    times.hidden = false;
    renew(status, [pill(run.status)]);
    failure.hidden = !run.error;
    put(failure, run.error ?? "");
    const states = Object.fromEntries(steps.map((step) => [step.name, step]));
    drawing.hidden = !pipeline.nodes.length;
    if (pipeline.nodes.length) renew(drawing, [h("h2", {}, "Pipeline"), graph(pipeline, states, (step) => shell.amend({ step }))]);
    none.hidden = steps.length > 0;
    waterfall.node.hidden = !steps.length;
    waterfall.show(run, steps, shell.now());
    more.hidden = !trace.meta.next_cursor;
    showStep();
    draw();
  }

  function draw() {
    if (!trace) return;
    const { run } = trace;
    const now = shell.now();
    const lasted = run.duration_ms ?? now - Date.parse(run.started_at);
    const tokens = run.input_tokens == null && run.output_tokens == null ? "–" : `${count(run.input_tokens ?? 0)} in, ${count(run.output_tokens ?? 0)} out`;
    renew(figures, [
      figure("Began", moment(run.started_at, now)),
      figure("Duration", duration(lasted)),
      figure("Trigger", run.trigger_type?.replaceAll("_", " ") ?? "–"),
      figure("Tokens", tokens),
      figure("Cost", run.cost_usd == null ? "–" : money(run.cost_usd)),
    ]);
    if (run.finished_at === null) waterfall.draw(now);
  }

  function showStep() {
    const step = steps.find(({ name }) => name === chosen);
    for (const node of root.querySelectorAll("button.step")) node.toggleAttribute("aria-current", node.querySelector(".name").textContent === chosen);
    detail.hidden = !step;
    if (!step) return;
    const key = JSON.stringify([step.name, step.status, step.finished_at, step.attempts]);
    if (detail.dataset.key === key) return; // what is unfolded stays so
    detail.dataset.key = key;
    const facts = [step.attempts > 1 && `${step.attempts} attempts`, step.cost_usd != null && money(step.cost_usd), step.artifact_key].filter(Boolean).join(" · ");
    fill(detail, [
      h("h2", {}, step.name, " ", pill(step.status), " ", h("span.quiet", {}, facts)),
      ...[step.error, step.artifact_error].filter(Boolean).map((text) => h("p.failure", {}, text)),
      part("Output", step.output),
      step.has_llm_response ? part("What the model answered", step.llm_response) : null,
    ].filter(Boolean));
  }

  function moved({ query }) {
    chosen = query.get("step");
    if (trace) showStep();
    if (chosen) detail.scrollIntoView({ block: "nearest" });
  }

  load();
  return {
    moved,
    draw,
    title: () => runId,
    close() {
      closed = true;
      reload.close();
      subscription?.cancel();
    },
  };
}

function part(title, value) {
  const nothing = value == null || (typeof value === "object" && !Object.keys(value).length);
  return h("div", {}, h("h3", {}, title), nothing ? h("p.quiet", {}, "Nothing was left behind.") : h("div.tree", {}, tree(null, value, true)));
}
