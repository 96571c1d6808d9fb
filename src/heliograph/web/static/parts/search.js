/* Search in a log: the service finds, so that what is not loaded is found as well. */

import { paths } from "../core/api.js";
import { compact } from "../core/format.js";
import { h, put } from "./dom.js";

const PAGE = 500;
const TYPING_MS = 300;

export class Search {
  #found = []; // seq of every line found so far, in order
  #more = false;
  #at = null; // index of the one that is shown
  #query = null;
  #turn = 0;
  #timer = null;

  /**
   * @param {object} options
   * @param {import("../core/api.js").Api} options.api
   * @param {string} options.id of the task
   * @param {() => number} options.from seq of the first line in view
   * @param {(seq: number) => void} options.go show a line
   * @param {() => void} options.left the reader is done with the field
   * @param {(problem: Error) => void} options.failed
   */
  constructor({ api, id, from, go, left, failed }) {
    Object.assign(this, { api, id, from, go, left, failed });
    this.input = h("input", { type: "search", placeholder: "Search in the log", "aria-label": "Search in the log", autocomplete: "off", spellcheck: "false" });
    this.count = h("span.num", { role: "status" });
    const step = (by, label, text) => h("button", { "aria-label": label, title: label, onclick: () => this.step(by) }, text);
    this.node = h("div.search", {}, this.input, step(-1, "Previous (N)", "↑"), step(1, "Next (n)", "↓"), this.count, h("span.gap"), h("button", { title: "Next error (e)", onclick: () => this.error(1) }, "Next error"));
    this.input.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#begin(), TYPING_MS);
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
      else if (event.key === "Escape") this.#end();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  /** Show the next line found, or the one before. */
  async step(by) {
    if (this.input.value.trim() && this.#query?.text !== this.input.value.trim()) return this.#begin();
    if (!this.#found.length) return;
    if (by > 0 && this.#at === this.#found.length - 1 && this.#more) await this.#load();
    this.#show((this.#at + by + this.#found.length) % this.#found.length);
  }

  /** Show the next error, or the one before: a line of stderr, or else one that speaks of an error. */
  async error(by) {
    if (this.#query?.errors) return this.step(by);
    this.input.value = "";
    await this.#find({ stream: "stderr", errors: true });
    if (!this.#found.length) await this.#find({ text: "error", errors: true });
  }

  close() {
    this.#turn += 1;
    clearTimeout(this.#timer);
  }

  #end() {
    this.input.value = "";
    this.left();
    this.#begin();
  }

  async #begin() {
    const text = this.input.value.trim();
    clearTimeout(this.#timer);
    if (text) return this.#find({ text });
    this.#turn += 1;
    this.#query = null;
    this.#found = [];
    put(this.count, "");
  }

  /* Everything is found from the start; what is shown first is the first one from here on. */
  async #find(query) {
    this.#query = query;
    this.#found = [];
    this.#more = false;
    const from = this.from();
    put(this.count, "…");
    if (!(await this.#load())) return;
    while (this.#more && this.#found[this.#found.length - 1] < from) if (!(await this.#load())) return;
    const next = this.#found.findIndex((seq) => seq >= from);
    if (this.#found.length) this.#show(next < 0 ? this.#found.length - 1 : next);
    else put(this.count, query.errors ? "no errors" : "nothing found");
  }

  /* The next page; false if another search was begun meanwhile, or there was no answer. */
  async #load() {
    const turn = ++this.#turn;
    const { text, stream } = this.#query;
    const last = this.#found[this.#found.length - 1] ?? 0;
    try {
      const { lines, meta } = await this.api.get(paths.log(this.id), { text, stream, from_seq: last + 1, limit: PAGE });
      if (turn !== this.#turn) return false;
      this.#found.push(...lines.map(({ seq }) => seq));
      this.#more = meta.more;
      return true;
    } catch (problem) {
      if (turn === this.#turn) put(this.count, "");
      this.failed(problem);
      return false;
    }
  }

  #show(i) {
    this.#at = i;
    put(this.count, `${compact(i + 1)} of ${compact(this.#found.length)}${this.#more ? "+" : ""}`);
    this.go(this.#found[i]);
  }
}
