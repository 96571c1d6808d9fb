/* The service itself: its machine, its parts, its streams, and where its documents are. */

import { paths } from "../core/api.js";
import { bytes, count, duration } from "../core/format.js";
import { ago, figure, pill } from "../parts/chips.js";
import { h, renew } from "../parts/dom.js";
import { table } from "../parts/table.js";

const RELOAD_MS = 3_000;

export function open(shell, root) {
  const { api } = shell;
  const figures = h("dl.figures", {}, h("p.hint-block", { role: "status" }, "Loading…"));
  const parts = h("section.panel");
  const machine = h("section.panel");
  const documents = h("section.panel", {}, h("h2", {}, "For programs"), h("ul.links", {}, ...paths.documents.map((name) => h("li", {}, h("a", { href: api.url(name).href, target: "_blank", rel: "noopener" }, name)))));
  root.classList.add("view");
  root.append(h("header.view-head", {}, h("h1", {}, "Status")), h("div.view-body", {}, figures, h("div.columns", {}, parts, machine, documents)));
  let closed = false;

  async function load() {
    try {
      const [status, health] = await Promise.all([api.get(paths.status), api.get(paths.health)]);
      if (!closed) show(status, health);
    } catch (problem) {
      if (!closed && problem.status) shell.report(problem);
    }
  }

  function show(status, health) {
    const { machine: of } = status;
    renew(figures, [
      figure("Version", status.version),
      figure("Up for", duration(status.uptime_seconds * 1000)),
      figure("Streams", count(status.streams)),
      figure("Subscriptions", count(status.subscriptions)),
      figure("Events", count(status.events)),
      figure("Events a second", status.events_per_second.toFixed(1)),
      figure("Sent to streams", count(status.deliveries)),
      figure("Published here", count(health.bus.published)),
      figure("Refused here", count(health.bus.errors)),
    ]);
    const { engine } = status;
    const checks = Object.entries(status.parts);
    if (engine.form !== "none") checks.push(["engine", engine]);
    const columns = [
      { title: "Part", name: "word", text: ([name]) => name.replaceAll("_", " ") },
      { title: "State", text: ([, part]) => (part.error ? h("span.bad-text", {}, part.error) : pill(part.state)) },
      { title: "Since", text: ([, part]) => ago(part.since, shell.now()) },
      { title: "Answered in", number: true, text: ([, part]) => (part.latency_ms == null ? "" : `${part.latency_ms.toFixed(1)} ms`) },
    ];
    const down = checks.filter(([, part]) => part.state === "down").length;
    renew(parts, [h("h2", {}, "Parts ", down ? pill("failed", `${down} down`) : pill("ready")), table("Parts", columns, checks)]);
    const rows = [
      ["Node", status.node],
      ["Processors", `${of.cpu_percent.toFixed(0)} % busy`],
      ["Load of the last minute", `${of.load_average[0].toFixed(2)} on ${of.cpu_count} ${of.cpu_count === 1 ? "core" : "cores"}`],
      ["Memory available", `${bytes(of.memory_available_bytes)} of ${bytes(of.memory_total_bytes)}`],
      ["Disk free", `${bytes(of.disk_free_bytes)} of ${bytes(of.disk_total_bytes)}`],
      ["Memory of the service", bytes(of.process_memory_bytes)],
      ["Position in the log", status.position],
      ["Folded up to", status.meta.stream_cursor],
      ["Behind by", lag(status)],
      ["This page", api.url("").href],
    ];
    renew(machine, [h("h2", {}, "Machine and log"), table("Machine and log", [{ title: "What", text: ([name]) => name }, { title: "Now", text: ([, value]) => value }], rows)]);
  }

  load();
  const timer = setInterval(() => document.hidden || load(), RELOAD_MS);
  return {
    title: () => "Status",
    close() {
      closed = true;
      clearInterval(timer);
    },
  };
}

/* Ids begin with milliseconds: between the newest event and the newest that is folded. */
function lag({ position, meta }) {
  const [newest, folded] = [position, meta.stream_cursor].map((id) => Number(id.split("-")[0]));
  return newest > folded ? duration(newest - folded) : "nothing";
}
