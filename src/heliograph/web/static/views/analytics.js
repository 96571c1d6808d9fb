/* Analytics: what the fleet costs and does over time, this period beside the one before.

   Everything is asked of the service for a period, a zone and a grouping, which live in the address; the channel
   `analytics` tells when the answers have become old, and so does the end of a slot, when nothing happens. */

import { paths } from "../core/api.js";
import { compact, duration, money } from "../core/format.js";
import { figure } from "../parts/chips.js";
import { fill, h, renew } from "../parts/dom.js";
import { largest, Plot } from "../parts/plot.js";
import { Reload } from "../parts/reload.js";
import { empty, table } from "../parts/table.js";

const PERIODS = { "24h": ["24 hours", "hour"], "7d": ["7 days", "hour"], "30d": ["30 days", "day"], "90d": ["90 days", "day"], "365d": ["a year", "week"] };
const BUCKETS = { "": "automatic", "15m": "15 minutes", hour: "hours", day: "days", week: "weeks", month: "months" };
const GROUPS = { model: "model", agent: "agent", agent_type: "type of agent" };
const RELOAD_MS = 4_000;
const SLOT_MS = 15 * 60_000; // by which the service counts: a period that ends now begins at a slot

export function open(shell, root, place) {
  const { api } = shell;
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const asked = {};
  let subscription = null;
  let slot = null; // timer of its end
  let turn = 0;
  const reload = new Reload(load, RELOAD_MS);

  const select = (name, label, options) => h("label", {}, `${label} `, h("select", { id: `by-${name}`, onchange: ({ target }) => shell.amend({ [name]: target.value }) }, ...options.map(([value, text]) => new Option(text, value))));
  const zones = h("datalist", { id: "zones" }, ...[...new Set([own, "UTC", ...Intl.supportedValuesOf("timeZone")])].map((name) => new Option(name)));
  const zone = h("label", {}, "in the zone ", h("input", { id: "by-tz", list: "zones", spellcheck: "false", onchange: ({ target }) => shell.amend({ tz: target.value.trim() }) }));
  const csv = h("button", { title: "What the plot of costs shows, as a table for spreadsheets", onclick: download }, "CSV");
  let span = {};
  const figures = h("dl.figures");
  const cost = new Plot("Cost", money, { short: dollars });
  const tasks = new Plot("Tasks that ended", compact, WHOLE);
  const tokens = new Plot("Tokens", compact, WHOLE);
  const failures = new Plot("Failures", compact, WHOLE);
  const groups = h("section.panel");
  const kinds = h("section.panel");
  const body = h("div.analytics", { hidden: true }, figures, h("div.plots", {}, ...[cost, tasks, tokens, failures].map((plot) => plot.node)), h("div.columns", {}, groups, kinds));
  const loading = h("p.hint-block", { role: "status" }, "Loading…");
  root.classList.add("view");
  root.append(
    h(
      "header.view-head",
      {},
      h("h1", {}, "Analytics"),
      select("period", "Last", Object.entries(PERIODS).map(([value, [text]]) => [value, text])),
      select("group", "by", Object.entries(GROUPS)),
      select("granularity", "in", Object.entries(BUCKETS)),
      zone,
      zones,
      h("span.gap"),
      csv,
    ),
    h("div.view-body", {}, loading, body),
  );

  function moved({ query }) {
    asked.period = PERIODS[query.get("period")] ? query.get("period") : "24h";
    asked.group = GROUPS[query.get("group")] ? query.get("group") : "model";
    asked.granularity = query.get("granularity") ?? "";
    asked.tz = query.get("tz") || own;
    for (const [name, value] of Object.entries(asked)) root.querySelector(`#by-${name}`).value = value;
    load();
  }

  async function load() {
    const now = ++turn;
    clearTimeout(slot);
    slot = setTimeout(reload.soon, SLOT_MS - (shell.now() % SLOT_MS));
    const granularity = asked.granularity || PERIODS[asked.period][1];
    span = { from: `-${asked.period}`, tz: asked.tz, granularity };
    const [, amount, unit] = /(\d+)(\D)/.exec(asked.period);
    const before = { ...span, from: `-${2 * amount}${unit}`, to: `-${asked.period}` };
    try {
      const [summary, performance, costs, ended, used, earlier] = await Promise.all([
        api.get(paths.summary, { ...span, group_by: asked.group }),
        api.get(paths.performance, { ...span, group_by: asked.group }),
        api.get(paths.histogram("costs"), { ...span, group_by: asked.group }),
        api.get(paths.histogram("tasks"), { ...span, group_by: asked.group }),
        api.get(paths.histogram("tokens"), span),
        api.get(paths.histogram("costs"), before),
      ]);
      if (now !== turn) return;
      show({ summary, performance, costs, ended, used, earlier });
      subscription?.cancel();
      subscription = shell.streams.subscribe({ channel: "analytics", after: summary.meta.stream_cursor }, { message: reload.soon, gap: reload.soon, reset: reload.soon });
    } catch (problem) {
      if (now !== turn) return;
      shell.report(problem);
      if (body.hidden) fill(loading, [problem.message, " ", h("button", { onclick: load }, "Try again")]);
      else reload.soon();
    }
  }

  async function download() {
    try {
      const file = await api.file(paths.histogram("costs"), { ...span, group_by: asked.group }, "text/csv");
      const address = URL.createObjectURL(file);
      h("a", { href: address, download: "heliograph.csv" }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    } catch (problem) {
      shell.report(problem);
    }
  }

  function show({ summary, performance, costs, ended, used, earlier }) {
    loading.hidden = true;
    body.hidden = false;
    const { change } = summary;
    const quantiles = performance.duration_ms;
    renew(figures, [
      figure("Cost", money(summary.cost_usd), change.cost_usd),
      figure("Tasks ended", compact(summary.tasks), change.tasks),
      figure("Succeeded", summary.success_rate === null ? "–" : percent(summary.success_rate), change.success_rate, true),
      figure("Failed", compact(summary.failed), change.failed, false),
      figure("Tokens", compact(summary.total_tokens), change.total_tokens),
      figure("Median duration", length(quantiles.p50)),
      figure("95 of 100 within", length(quantiles.p95)),
      figure("Active now", compact(summary.active_tasks)),
    ]);
    const days = asked.period !== "24h";
    const buckets = costs.buckets.map(({ start }) => labels(start, costs.meta.granularity, asked.tz, days));
    const grouped = (answer, measure) => largest(answer.meta.groups.map((name) => ({ name, values: answer.buckets.map(({ groups: found }) => found?.[name]?.[measure] ?? 0) })));
    const plain = (answer, measure, name, tone) => ({ name, tone, values: answer.buckets.map((bucket) => bucket[measure]) });
    cost.show({ buckets, series: grouped(costs, "cost_usd"), before: { name: "the period before", values: earlier.buckets.slice(-buckets.length).map(({ cost_usd }) => cost_usd) } });
    tasks.show({ buckets, series: [plain(ended, "succeeded", "succeeded", "good"), plain(ended, "failed", "failed", "bad"), plain(ended, "cancelled", "cancelled", "other")] });
    tokens.show({ buckets, series: [plain(used, "input_tokens", "in"), plain(used, "output_tokens", "out")] });
    failures.show({ buckets, series: grouped(ended, "failed") });
    showGroups(performance[`by_${asked.group}`] ?? {});
    showKinds(performance.failures);
  }

  function showGroups(found) {
    const rows = Object.entries(found).sort(([, a], [, b]) => b.cost_usd - a.cost_usd);
    const columns = [
      { title: GROUPS[asked.group].replace(/^./, (letter) => letter.toUpperCase()), text: ([name]) => name },
      { title: "Cost", number: true, text: ([, of]) => money(of.cost_usd) },
      { title: "Tasks", number: true, text: ([, of]) => compact(of.tasks) },
      { title: "Succeeded", number: true, text: ([, of]) => (of.success_rate === null ? "–" : percent(of.success_rate)) },
      { title: "Median", number: true, text: ([, of]) => length(of.duration_ms.p50) },
      { title: "p95", number: true, text: ([, of]) => length(of.duration_ms.p95) },
      { title: "Tokens each", number: true, text: ([, of]) => (of.average_tokens === null ? "–" : compact(Math.round(of.average_tokens))) },
    ];
    renew(groups, [h("h2", {}, `By ${GROUPS[asked.group]}`), rows.length ? table(`By ${GROUPS[asked.group]}`, columns, rows, ([name]) => name) : empty("Nothing ended in this period", "Take a longer one above.")]);
  }

  function showKinds(found) {
    const rows = Object.entries(found);
    const columns = [
      { title: "Kind", text: ([kind]) => kind },
      { title: "Failures", number: true, text: ([, failed]) => compact(failed) },
    ];
    renew(kinds, [h("h2", {}, "Kinds of failure"), rows.length ? table("Kinds of failure", columns, rows.slice(0, 20), ([kind]) => kind) : h("p.quiet", {}, "None in this period.")]);
  }

  moved(place);
  return {
    moved,
    title: () => "Analytics",
    close() {
      turn += 1;
      clearTimeout(slot);
      reload.close();
      subscription?.cancel();
    },
  };
}

/* All amounts of an axis have cents, or none has. */
function dollars(value, step) {
  return Number.isInteger(step) ? `$${round(value)}` : money(value);
}

function round(value) {
  return compact(value).replace(".0", "");
}

const WHOLE = { short: round, least: 1 };

function percent(share) {
  return `${(share * 100).toFixed(share > 0.995 && share < 1 ? 2 : 1).replace(/\.0+$/, "")} %`;
}

function length(ms) {
  return ms == null ? "–" : duration(ms);
}

/* What a column is called on the axis, and in full, in the zone asked for; of hours of many days only the first. */
function labels(start, granularity, timeZone, days) {
  const time = new Date(start);
  const fine = granularity === "hour" || granularity === "15m";
  const options = fine ? { hour: "2-digit", minute: "2-digit" } : granularity === "month" ? { month: "short", year: "numeric" } : { day: "numeric", month: "short" };
  const midnight = fine && /T00:00/.test(start);
  const shown = midnight ? { day: "numeric", month: "short" } : options;
  const long = fine ? { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" } : { weekday: "short", day: "numeric", month: "short", year: "numeric" };
  const label = fine && days && !midnight ? "" : time.toLocaleString("en-GB", { ...shown, timeZone });
  return { label, long: time.toLocaleString("en-GB", { ...long, timeZone }) };
}
