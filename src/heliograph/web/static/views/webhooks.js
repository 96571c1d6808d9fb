/* Webhooks: what is configured, what was delivered lately and what became of it, and what that adds up to. */

import { paths, Problem } from "../core/api.js";
import { bytes, compact, duration } from "../core/format.js";
import { format } from "../core/route.js";
import { ago, figure, pill } from "../parts/chips.js";
import { ask, confirmed } from "../parts/dialog.js";
import { copied, fill, h, renew } from "../parts/dom.js";
import { Reload } from "../parts/reload.js";
import { empty, Pages, table } from "../parts/table.js";

const RELOAD_MS = 1_500;
const PAGE = 50;
const PROVIDERS = ["custom", "github", "gitlab", "jira", "sentry", "slack", "standard", "stripe"];

export function open(shell, root, place) {
  const { api } = shell;
  const figures = h("dl.figures");
  const list = h("section.panel", {}, h("p.hint-block", { role: "status" }, "Loading…"));
  const refusals = h("section.panel", { hidden: true });
  const of = h("select", { "aria-label": "Deliveries of", onchange: ({ target }) => shell.amend({ webhook: target.value }) });
  const what = h("select", { "aria-label": "Status", onchange: ({ target }) => shell.amend({ status: target.value }) }, ...["", "received", "accepted", "skipped"].map((status) => new Option(status ? status.replace("_", " ") : "any status", status)));
  const chosen = {};
  const names = new Map(); // of webhooks, by id
  let subscription = null;
  let closed = false;
  const reload = new Reload(load, RELOAD_MS);

  const deliveries = new Pages({
    caption: "Deliveries",
    columns: [
      { title: "When", text: (one) => ago(one.created_at, shell.now()) },
      { title: "Webhook", text: (one) => names.get(one.webhook_id) ?? one.webhook_id ?? one.provider ?? "" },
      { title: "Event", text: (one) => one.event_type ?? "" },
      { title: "Became", text: (one) => pill(one.status) },
      { title: "Command", name: "optional", text: (one) => one.matched_command ?? "" },
      { title: "Task", name: "long", text: (one) => (one.task_id ? h("a", { href: format(["tasks", one.task_id]) }, one.task_id) : (one.reason ?? "")) },
      { title: "Size", number: true, name: "optional", text: (one) => (one.payload_size == null ? "" : bytes(one.payload_size)) },
    ],
    key: ({ event_id }) => event_id,
    none: () => empty("Nothing was delivered yet", "A delivery appears here as soon as a provider sends one to a webhook's endpoint."),
    failed: shell.report,
    async fetch(cursor) {
      const { events, meta } = await api.get(paths.deliveries, { webhook_id: chosen.webhook, status: chosen.status, limit: PAGE, cursor });
      return { rows: events, next: meta.next_cursor };
    },
  });

  root.classList.add("view");
  root.append(
    h("header.view-head", {}, h("h1", {}, "Webhooks"), h("span.gap"), h("button.primary", { onclick: () => configure(null) }, "New")),
    h("div.view-body", {}, figures, list, refusals, h("section.panel", {}, h("h2.with-tools", {}, "Deliveries ", of, what), deliveries.node)),
  );

  async function load() {
    try {
      const [found, stats] = await Promise.all([api.get(paths.webhooks), api.get(paths.webhookStats)]);
      if (closed) return;
      show(found, stats);
      subscription ??= shell.streams.subscribe({ channel: "webhooks", after: found.meta.stream_cursor }, { message: reload.soon, gap: reload.soon, reset: reload.soon });
    } catch (problem) {
      if (!closed) fill(list, [empty("The webhooks could not be loaded", problem.message, h("button", { onclick: load }, "Try again"))]);
    }
    deliveries.reload();
  }

  const columns = [
    { title: "Webhook", text: (one) => [h("b", {}, one.name), h("span.quiet", {}, one.is_builtin ? " from a file" : "")] },
    { title: "Provider", name: "optional", text: (one) => one.provider },
    { title: "Endpoint", text: (one) => endpoint(one) },
    { title: "Signed", name: "optional", text: (one) => (one.requires_signature ? (one.has_secret ? "must be" : h("span.bad-text", {}, "its secret is missing")) : one.has_secret ? "checked" : "no") },
    { title: "Commands", name: "optional", text: (one) => one.commands.map(({ name }) => name).join(", ") },
    { title: "Received", number: true, text: (one) => compact(one.event_count) },
    { title: "Last", number: true, text: (one) => ago(one.last_event_at, shell.now()) },
    { title: "On", text: (one) => toggle(one) },
    { title: h("span.unseen", {}, "Change"), text: (one) => (one.is_builtin ? "" : [h("button.small", { "aria-label": `Edit ${one.name}`, onclick: () => configure(one) }, "Edit"), " ", h("button.small", { "aria-label": `Remove ${one.name}`, onclick: () => remove(one) }, "Remove")]) },
  ];

  /* Make one, or change one: what is left as it is, is not sent. */
  async function configure(one) {
    const was = { name: "", provider: "custom", endpoint: "", description: "", target_agent: "", prefix: "", requires_signature: false, ...one };
    const commands = one ? JSON.stringify(one.commands.map(essential), null, 2) : "";
    const secret = one?.has_secret ? "One is kept, and never shown. Leave this empty to keep it." : "It signs what the provider sends. It is kept apart, and never shown again.";
    const fields = [
      { name: "name", label: "Name", value: was.name, required: true, most: 200 },
      { name: "provider", label: "Provider", kind: "choice", options: PROVIDERS, value: was.provider, covers: ["source"], hint: "Who sends the deliveries: it says how they are signed and read." },
      { name: "endpoint", label: "Endpoint", value: was.endpoint, hint: "/webhooks/ and a name of a-z, 0-9 and -; made of the name if empty." },
      { name: "description", label: "Description", value: was.description, most: 2000 },
      { name: "target_agent", label: "Agent", value: was.target_agent, most: 200, hint: "Whom the tasks are for whose command names nobody." },
      { name: "prefix", label: "Prefix", value: was.prefix, covers: ["agent_trigger"], hint: "How a text addresses the agent, such as @agent; empty: every text does." },
      { name: "secret", label: "Secret", kind: "password", most: 500, hint: secret },
      ...(one?.has_secret ? [{ name: "forget", label: "Forget the secret", kind: "check" }] : []),
      { name: "requires_signature", label: "Refuse what is not signed", kind: "check", value: was.requires_signature, covers: ["security"] },
      { name: "commands", label: "Commands", kind: "area", rows: 4, value: commands, hint: one ? "As JSON: each has a name and a template; also trigger, conditions, priority, agent, aliases." : "As JSON: each has a name and a template; also trigger, conditions, priority, agent, aliases. Empty: the text of a delivery becomes a task." },
    ];
    const title = one ? `Edit ${one.name}` : "New webhook";
    const done = await ask({ title, fields, action: one ? "Save" : "Make it", does: (values) => send(one, was, values, commands) });
    if (done && !closed) load();
  }

  async function send(one, was, { prefix, secret, forget, requires_signature, commands, ...plain }, before) {
    const said = Object.fromEntries(Object.entries(plain).filter(([name, value]) => value !== (was[name] ?? "")));
    if (!one) said.provider = plain.provider;
    if (prefix !== was.prefix) said.agent_trigger = { prefix, aliases: was.aliases ?? [], assignee_trigger: was.assignee ?? "" };
    if (requires_signature !== was.requires_signature) said.security = { requires_signature, signature_header: was.signature_header ?? "" };
    if (secret || forget) said.secret = forget ? "" : secret;
    if (commands !== before && commands) said.commands = parsed(commands);
    await api.send(one ? "PUT" : "POST", one ? paths.webhook(one.webhook_id) : paths.webhooks, said);
  }

  async function remove(one) {
    const text = "Its endpoint takes nothing from then on, and its secret is forgotten. What was delivered stays in the list.";
    const done = await confirmed({ title: `Remove ${one.name}?`, text, action: "Remove", does: () => api.send("DELETE", paths.webhook(one.webhook_id)) });
    if (done && !closed) load();
  }

  function endpoint(one) {
    const address = one.public_url ?? one.endpoint;
    return [h("code", {}, one.endpoint), " ", h("button.small", { onclick: ({ target }) => copied(target, address) }, "Copy")];
  }

  function show({ webhooks, broken }, stats) {
    const refused = Object.entries(stats.refused).filter(([, count]) => count);
    const p90 = Math.max(0, ...stats.webhooks.map(({ latency_ms }) => latency_ms.p90 ?? 0));
    renew(figures, [
      figure("Webhooks", `${compact(stats.active_webhooks)} of ${compact(stats.total_webhooks)} on`),
      figure("Received", compact(stats.received)),
      figure("Became tasks", compact(stats.accepted)),
      figure("Skipped", compact(stats.skipped)),
      figure("Refused", compact(refused.reduce((sum, [, count]) => sum + count, 0))),
      figure("9 of 10 kept within", p90 ? (p90 < 950 ? `${Math.round(p90)} ms` : duration(p90)) : "–"),
    ]);
    const mistakes = broken.map(({ file, detail }) => h("li", {}, h("b", {}, `${file}: `), detail));
    renew(list, [
      h("h2", {}, "Configured"),
      webhooks.length ? table("Webhooks", columns, webhooks, ({ webhook_id }) => webhook_id) : empty("No webhooks yet", "Make one here, or put a folder with a config.yaml into the folder of webhooks (HELIOGRAPH_WEBHOOKS).", h("button.primary", { onclick: () => configure(null) }, "New webhook")),
      ...(mistakes.length ? [h("h3", {}, "Mistakes in files"), h("ul", {}, ...mistakes)] : []),
    ]);
    refusals.hidden = !refused.length;
    renew(refusals, [h("h2", {}, "Refused, and why"), table("Refused", [{ title: "Reason", text: ([reason]) => reason.replaceAll("_", " ") }, { title: "Deliveries", number: true, text: ([, count]) => compact(count) }], refused)]);
    for (const { webhook_id, name } of webhooks) names.set(webhook_id, name);
    renew(of, [new Option("of all", ""), ...webhooks.map(({ webhook_id, name }) => new Option(`of ${name}`, webhook_id))]);
    of.value = chosen.webhook;
  }

  function toggle(one) {
    async function onchange({ target }) {
      try {
        await api.send("POST", paths.switchWebhook(one.webhook_id, target.checked));
      } catch (problem) {
        target.checked = !target.checked;
        shell.report(problem);
      }
    }
    return h("input.switch", { type: "checkbox", role: "switch", "aria-label": `${one.name} is on`, checked: one.enabled, onchange });
  }

  function moved({ query }) {
    chosen.webhook = of.value = query.get("webhook") ?? "";
    chosen.status = what.value = query.get("status") ?? "";
    if (subscription) deliveries.reload();
  }

  moved(place);
  load();
  return {
    moved,
    title: () => "Webhooks",
    close() {
      closed = true;
      reload.close();
      subscription?.cancel();
    },
  };
}

/* A command without what it says by default. */
function essential(command) {
  const empty = (value) => !value || (typeof value === "object" && !Object.keys(value).length);
  return Object.fromEntries(Object.entries(command).filter(([name, value]) => !empty(value) && !(name === "agent" && value === "planning")));
}

/* Commands as they were typed; what is no JSON is an error of that field, as the service would tell it. */
function parsed(text) {
  try {
    const commands = JSON.parse(text);
    if (Array.isArray(commands)) return commands;
  } catch {
    // said below
  }
  const detail = "must be a JSON array of objects";
  throw new Problem({ title: "Invalid", status: 422, answer: { errors: [{ field: "commands", detail }] } });
}
