/* The list of tasks on the page: a section per status, the newest tasks of each.

   Drawing changes only what differs from what is shown, so it costs little to call again and again;
   how often is decided by the caller. */

import { agentOf, isDemo, nameOf } from "./fleet.js";
import { age, compact, duration, money } from "./format.js";
import { plain } from "./ansi.js";

const ORDER = ["running", "waiting_input", "queued", "failed", "completed", "cancelled"];
const FIRST = { running: 100, waiting_input: 30, queued: 30, failed: 15, completed: 40, cancelled: 15 };
const MORE = 100;

export class TaskList {
  /** What is shown: `status` null shows all. */
  filter = { text: "", agent: "", status: null };
  /** Id of the task whose log is open. */
  open = null;

  #sections = new Map();
  #rows = new Map();
  #drawn = null;
  #begun = false;

  /**
   * @param {Element} root where the sections go
   * @param {import("./fleet.js").Fleet} fleet
   * @param {() => number} now the service's clock
   */
  constructor(root, fleet, now) {
    Object.assign(this, { root, fleet, now });
    for (const status of ORDER) this.#sections.set(status, this.#makeSection(status));
  }

  /** How many tasks pass the filter. */
  matching = 0;

  draw() {
    const { text, agent, status } = this.filter;
    const key = [this.fleet.version, text, agent, status, this.open].join("\n");
    if (key !== this.#drawn) this.#arrange();
    this.#drawn = key;
    const now = this.now();
    for (const row of this.#rows.values()) row.draw(this.fleet.get(row.id), now);
  }

  /** The links of all rows, from top to bottom. */
  links() {
    return [...this.root.querySelectorAll("a.row")];
  }

  /** Put the focus on a task's row, if it is shown. */
  focus(id) {
    this.#rows.get(id)?.link.focus();
  }

  #arrange() {
    const tasks = this.fleet.sections(this.filter);
    const focused = document.activeElement?.closest?.("#sections a.row");
    const used = new Set();
    this.matching = 0;
    for (const [status, section] of this.#sections) {
      const all = this.filter.status && this.filter.status !== status ? [] : tasks[status];
      const shown = all.slice(0, section.limit);
      this.matching += all.length;
      section.node.hidden = !all.length;
      put(section.count, compact(all.length));
      const rest = all.length - shown.length;
      section.more.hidden = rest === 0;
      put(section.more, rest > MORE ? `Show ${MORE} more of ${compact(rest)}` : `Show ${rest} more`);
      for (const task of shown) used.add(task.task_id);
      section.shown = shown;
    }
    for (const [id, row] of this.#rows) {
      if (used.has(id)) continue;
      row.node.remove();
      this.#rows.delete(id);
    }
    for (const { list, shown } of this.#sections.values()) this.#place(list, shown);
    if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
    this.#begun ||= used.size > 0;
  }

  #place(list, tasks) {
    let next = list.firstElementChild;
    for (const { task_id } of tasks) {
      let row = this.#rows.get(task_id);
      if (!row) {
        row = new Row(task_id);
        row.node.classList.toggle("fresh", this.#begun);
        this.#rows.set(task_id, row);
      }
      row.link.toggleAttribute("aria-current", task_id === this.open);
      if (row.node === next) next = next.nextElementSibling;
      else list.insertBefore(row.node, next);
    }
  }

  #makeSection(status) {
    const node = document.getElementById("section").content.firstElementChild.cloneNode(true);
    node.dataset.status = status;
    node.querySelector("h2 span").textContent = status;
    node.setAttribute("aria-label", `${status} tasks`);
    const section = {
      node,
      list: node.querySelector("ul"),
      count: node.querySelector("h2 b"),
      more: node.querySelector(".more"),
      limit: FIRST[status],
      shown: [],
    };
    section.more.addEventListener("click", () => {
      section.limit += MORE;
      this.#drawn = null;
      this.draw();
    });
    this.root.append(node);
    return section;
  }
}

class Row {
  constructor(id) {
    this.id = id;
    this.node = document.getElementById("row").content.firstElementChild.cloneNode(true);
    this.link = this.node.firstElementChild;
    this.link.href = `#/tasks/${encodeURIComponent(id)}`;
    const cell = (name) => this.node.querySelector(`.${name}`);
    this.name = cell("name").firstElementChild;
    this.badge = cell("badge");
    for (const name of ["latest", "agent", "model", "lines", "cost", "duration", "age"]) this[name] = cell(name);
  }

  draw(task, now) {
    const begun = task.started_at ?? task.created_at;
    const running = task.status === "running";
    this.link.dataset.status = task.status;
    this.badge.hidden = !isDemo(task);
    put(this.name, nameOf(task));
    put(this.latest, latestOf(task));
    put(this.agent, agentOf(task));
    put(this.model, task.model ?? "");
    put(this.lines, task.output_lines ? compact(task.output_lines) : "");
    put(this.cost, task.cost_usd == null ? "" : money(task.cost_usd));
    put(this.duration, running ? duration(now - Date.parse(begun)) : task.duration_ms == null ? "" : duration(task.duration_ms));
    put(this.age, age(now - Date.parse(task.created_at)));
    const label = [nameOf(task), task.status, task.agent && `agent ${agentOf(task)}`, isDemo(task) && "demo"];
    if (this.label !== (this.label = label.filter(Boolean).join(", "))) this.link.setAttribute("aria-label", this.label);
  }
}

function latestOf(task) {
  if (task.status === "failed" && task.error) return plain(task.error).trim().split("\n").pop().slice(0, 240);
  if (task.status === "running") return task.latest;
  if (task.input_tokens == null && task.output_tokens == null) return "";
  return `${compact(task.input_tokens ?? 0)} tokens in, ${compact(task.output_tokens ?? 0)} out`;
}

/** Set a node's text if it differs from what was last set. */
export function put(node, text) {
  if (node.shown !== text) node.textContent = node.shown = text;
}
