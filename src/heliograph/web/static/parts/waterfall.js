/* The steps of a run over time: a row for each, a bar for each attempt; bars of steps that run grow. */

import { duration } from "../core/format.js";
import { fill, h, put } from "./dom.js";
import { ticks } from "./plot.js";

export class Waterfall {
  #rows = new Map();
  #run = null;
  #steps = [];

  /** @param {(name: string) => void} choose a step was chosen */
  constructor(choose) {
    this.choose = choose;
    this.axis = h("div.axis", { "aria-hidden": "true" });
    this.list = h("ul.steps");
    this.node = h("div.waterfall", {}, this.axis, this.list);
  }

  /** Show a run and its steps. */
  show(run, steps, now) {
    this.#run = run;
    this.#steps = steps;
    const used = new Set(steps.map(({ name }) => name));
    for (const name of this.#rows.keys()) if (!used.has(name)) this.#rows.delete(name);
    fill(this.list, steps.map((step) => this.#rowOf(step.name).item));
    this.draw(now);
  }

  /** Let what runs grow up to now. */
  draw(now) {
    if (!this.#run) return;
    const begin = Date.parse(this.#run.started_at);
    const ends = this.#steps.map((step) => this.#endOf(step, now)).filter(Boolean);
    const end = Math.max(begin + 1, this.#run.finished_at ? Date.parse(this.#run.finished_at) : now, ...ends);
    const whole = end - begin;
    fill(this.axis, ticks(whole / 1000).filter((seconds) => seconds * 1000 <= whole).map((seconds) => {
      const mark = h("span", {}, seconds ? duration(seconds * 1000) : "0");
      mark.style.left = `${(seconds * 100_000) / whole}%`;
      return mark;
    }));
    for (const step of this.#steps) this.#drawRow(step, begin, whole, now);
  }

  #endOf(step, now) {
    if (step.finished_at) return Date.parse(step.finished_at);
    if (!step.started_at) return null;
    return step.status === "running" ? now : Date.parse(step.started_at) + step.duration_ms;
  }

  #drawRow(step, begin, whole, now) {
    const row = this.#rows.get(step.name);
    row.node.dataset.status = step.status;
    row.node.setAttribute("aria-label", `${step.name}, ${step.status}`);
    const tries = step.tries.length ? step.tries : step.started_at ? [step] : [];
    while (row.track.children.length > tries.length) row.track.lastElementChild.remove();
    tries.forEach((one, i) => {
      const bar = row.track.children[i] ?? row.track.appendChild(h("i.bar"));
      const last = i === tries.length - 1;
      const from = Date.parse(one.started_at);
      const to = one.finished_at ? Date.parse(one.finished_at) : (this.#endOf(last ? step : one, now) ?? from);
      bar.dataset.status = last ? step.status : (one.status ?? "failed");
      bar.style.left = `${((from - begin) * 100) / whole}%`;
      bar.style.width = `${Math.max(0.3, ((to - from) * 100) / whole)}%`;
    });
    const lasted = step.status === "running" && step.started_at ? now - Date.parse(step.started_at) : step.duration_ms;
    put(row.lasted, step.started_at ? duration(lasted) : "");
    put(row.attempts, step.attempts > 1 ? `×${step.attempts}` : "");
  }

  #rowOf(name) {
    let row = this.#rows.get(name);
    if (!row) {
      const track = h("span.track");
      const lasted = h("span.num");
      const attempts = h("span.attempts", { title: "Attempts" });
      const node = h("button.step", { onclick: () => this.choose(name) }, h("i.dot"), h("span.name", {}, name), attempts, track, lasted);
      row = { node, item: h("li", {}, node), track, lasted, attempts };
      this.#rows.set(name, row);
    }
    return row;
  }
}
