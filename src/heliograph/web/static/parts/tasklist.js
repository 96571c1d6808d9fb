/* The list of tasks: sections with rows that stand still while they are looked at.

   While the pointer or the focus is in the list, it is scrolled, or it was paused, rows keep their places: what
   they show goes on, but none comes, goes or moves; the list offers what is new instead. Drawing changes only
   what differs from what is shown, so it costs little to call again and again. */

import { agentOf, isDemo, isSilent, nameOf } from "../core/fleet.js";
import { age, compact, count, duration, moment, money } from "../core/format.js";
import { plain } from "../core/terminal.js";
import { fill, h, put } from "./dom.js";

const MORE = 100;
const TITLES = { silent: "Silent for long", waiting_input: "Waiting for input" };

export class TaskList {
  /** Whether something would come, go or move if the list did not stand still. */
  waits = false;
  /** Rows that would come. */
  pending = 0;
  paused = false;
  /** Id of the task that is open. */
  open = null;

  #sections = new Map();
  #rows = new Map();
  #seen = new Set(); // rows that are in view
  #views = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) isIntersecting ? this.#seen.add(target) : this.#seen.delete(target);
  });
  #begun = false;
  #folded;

  /**
   * @param {Element} scroller what scrolls
   * @param {Element} root where the sections go
   * @param {object} options
   * @param {(id: string) => string} options.address of a task
   * @param {(name?: string) => void} options.changed the reader did something (to a section): draw
   * @param {(name: string) => void} options.more the reader wants more of a section
   * @param {Set<string>} options.folded names of sections that are shut
   */
  constructor(scroller, root, { address, changed, more, folded }) {
    Object.assign(this, { scroller, root, address, changed, more });
    this.#folded = folded;
    this.inside = false;
    root.addEventListener("pointerenter", () => (this.inside = true));
    root.addEventListener("pointerleave", () => ((this.inside = false), changed()));
    scroller.addEventListener("scroll", changed, { passive: true });
    root.addEventListener("focusout", changed);
  }

  /** Whether rows keep their places. */
  get held() {
    return this.paused || this.inside || this.scroller.scrollTop > 4 || this.root.contains(document.activeElement);
  }

  /**
   * Show these sections.
   *
   * @param {{name: string, status: string, title?: string, tasks: object[], total: number, first: number}[]} sections
   *   `first`: rows shown until more are asked for
   * @param {boolean} force whether rows may move although they are held: the reader asked for something else
   */
  arrange(sections, force) {
    const wanted = sections.map((given) => {
      const section = this.#sections.get(given.name) ?? this.#make(given);
      section.given = given;
      return { section, shown: this.#folded.has(given.name) ? [] : given.tasks.slice(0, section.limit) };
    });
    const still = this.held && this.#begun && !force;
    this.waits = still && this.#differs(wanted);
    this.pending = this.waits ? this.#coming(wanted) : 0;
    if (this.waits) {
      for (const { section } of wanted) this.#head(section, still);
      return;
    }
    const used = new Set(wanted.flatMap(({ shown }) => shown.map((task) => task.task_id)));
    for (const [id, { node }] of this.#rows) {
      if (used.has(id)) continue;
      this.#views.unobserve(node);
      this.#seen.delete(node);
      this.#rows.delete(id);
    }
    for (const { section, shown } of wanted) {
      section.node.hidden = isEmpty(section);
      section.shown = shown.length;
      fill(section.list, shown.map((task) => this.#rowOf(task.task_id).node));
      this.#head(section, still);
    }
    fill(this.root, wanted.map(({ section }) => section.node));
    const names = new Set(wanted.map(({ section }) => section.given.name));
    for (const name of this.#sections.keys()) if (!names.has(name)) this.#sections.delete(name);
    this.#begun ||= used.size > 0;
  }

  /** Bring every row up to date; `absolute`: give times of day instead of ages. */
  draw(find, now, absolute) {
    const still = this.held;
    for (const [id, row] of this.#rows) {
      const task = find(id);
      if (task) row.draw(task, now, absolute, still);
      row.link.toggleAttribute("aria-current", id === this.open);
    }
  }

  /** Ids of the tasks whose rows are in view and that may say something. */
  get inView() {
    return [...this.#rows.values()].filter(({ node, link }) => this.#seen.has(node) && link.dataset.status === "running").map(({ id }) => id);
  }

  /** The links of all rows, from top to bottom. */
  links() {
    return [...this.root.querySelectorAll("a.row")];
  }

  /** Give every row the address that its task has now. */
  readdress() {
    for (const [id, row] of this.#rows) row.link.href = this.address(id);
  }

  /** Put the focus on a task's row, if it is shown. */
  focus(id) {
    this.#rows.get(id)?.link.focus({ preventScroll: true });
  }

  #differs(wanted) {
    const { children } = this.root;
    if (wanted.length !== children.length) return true;
    return wanted.some(({ section, shown }, i) => {
      const { node, list } = section;
      if (node !== children[i] || node.hidden !== isEmpty(section) || shown.length !== list.children.length) return true;
      return shown.some((task, at) => this.#rows.get(task.task_id)?.node !== list.children[at]);
    });
  }

  #coming(wanted) {
    const comes = ({ section, shown }) => shown.filter((task) => this.#rows.get(task.task_id)?.node.parentNode !== section.list).length;
    return wanted.reduce((sum, one) => sum + comes(one), 0);
  }

  #rowOf(id) {
    let row = this.#rows.get(id);
    if (!row) {
      row = new Row(id, this.address(id));
      row.node.classList.toggle("fresh", this.#begun);
      this.#rows.set(id, row);
      this.#views.observe(row.node);
    }
    return row;
  }

  /* `still`: what offers more rows neither comes nor goes, as rows would move by it. */
  #head({ given, count: node, more, fold, shown }, still) {
    put(node, compact(given.total));
    const shut = this.#folded.has(given.name);
    fold.setAttribute("aria-expanded", String(!shut));
    const rest = given.total - shown;
    if (!still) more.hidden = shut || rest <= 0;
    if (rest > 0) put(more, rest > MORE ? `Show ${MORE} more of ${compact(rest)}` : `Show ${rest} more`);
  }

  #make({ name, status, title, first }) {
    const label = title ?? TITLES[name] ?? name.replace(/^./, (letter) => letter.toUpperCase());
    const count = h("b");
    const list = h("ul");
    const more = h("button.more", { hidden: true });
    const fold = h("button.fold", { "aria-expanded": "true" }, h("i.dot"), h("span", {}, label), count);
    const node = h("section", { dataset: { status, section: name }, "aria-label": `${label}, tasks` }, h("h2", {}, fold), list, more);
    const section = { node, list, count, more, fold, limit: first, shown: 0, given: null };
    more.addEventListener("click", () => {
      section.limit += MORE;
      this.more(name);
    });
    fold.addEventListener("click", () => {
      if (!this.#folded.delete(name)) this.#folded.add(name);
      this.changed(name);
    });
    this.#sections.set(name, section);
    return section;
  }
}

function isEmpty({ given }) {
  return !given.total && !given.tasks.length;
}

class Row {
  constructor(id, address) {
    this.id = id;
    const cells = ["latest", "agent", "model", "lines", "cost", "duration", "age"].map((name) => [name, h(`span.${name}`, { "aria-hidden": "true" })]);
    this.name = h("span");
    this.badge = h("i.badge", { hidden: true }, "demo");
    Object.assign(this, Object.fromEntries(cells));
    for (const name of ["lines", "cost", "duration", "age"]) this[name].classList.add("num");
    this.said = h("span.unseen");
    this.link = h("a.row", { href: address }, h("i.dot"), h("span.name", {}, this.name, this.badge), ...cells.map(([, cell]) => cell), this.said);
    this.node = h("li", {}, this.link);
    this.link.addEventListener("pointerenter", () => (this.name.title = this.name.textContent)); // there may be no room for it
  }

  draw(task, now, absolute, still) {
    const begun = task.started_at ?? task.created_at;
    const running = task.status === "running" || task.status === "waiting_input";
    const silence = now - Date.parse(task.updated_at);
    const silent = isSilent(task, now);
    const latest = `${silent ? `silent for ${age(silence)} · ` : ""}${latestOf(task)}`;
    const cost = task.cost_usd == null ? "" : money(task.cost_usd);
    const lasted = running ? duration(now - Date.parse(begun)) : task.duration_ms == null ? "" : duration(task.duration_ms);
    const urgent = UNDONE.has(task.status) || task.status === "waiting_input" || silent;
    this.link.dataset.status = task.status;
    if (!still || !this.drawn) this.link.classList.toggle("urgent", urgent); // it may make the row higher
    this.drawn = true;
    this.badge.hidden = !isDemo(task);
    put(this.name, nameOf(task));
    put(this.latest, latest);
    put(this.agent, agentOf(task));
    put(this.model, task.model ?? "");
    put(this.lines, task.output_lines ? compact(task.output_lines) : "");
    put(this.cost, cost);
    put(this.duration, lasted);
    const when = task.finished_at ?? (task.status === "lost" ? task.updated_at : task.created_at);
    put(this.age, absolute ? moment(when, now) : age(now - Date.parse(when)));
    // What a screen reader hears changes only when the task does, not with every line.
    const facts = [task.status, task.agent && `agent ${agentOf(task)}`, task.model, urgent && !silent && latest, cost && `cost ${cost}`];
    put(this.said, `, ${facts.filter(Boolean).join(", ")}`);
  }
}

/* The ends of tasks that somebody should look at. */
const UNDONE = new Set(["failed", "lost"]);

function latestOf(task) {
  if (UNDONE.has(task.status) && task.error) return plain(task.error).trim().split("\n").pop().slice(0, 240);
  if (task.status === "waiting_input") return task.asks ? `asks: ${plain(task.asks).trim().slice(0, 240)}` : task.latest;
  if (task.status === "running") return task.latest;
  if (task.input_tokens == null && task.output_tokens == null) return "";
  return `${count(task.input_tokens ?? 0)} tokens in, ${count(task.output_tokens ?? 0)} out`;
}
