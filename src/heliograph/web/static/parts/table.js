/* Tables: columns are declared, rows are values. */

import { h, renew } from "./dom.js";

/**
 * Make a table.
 *
 * @param {string} caption for readers
 * @param {{title: string|Node, text: (row: *, i: number) => (string|Node|Array), number?: boolean, name?: string}[]} columns
 *   `name` is a class, by which the style sheet knows what may go where there is little room
 * @param {*[]} rows
 * @param {(row: *) => string} [key] what a row is about, by which it stays the same row when the table is renewed
 */
export function table(caption, columns, rows, key = () => null) {
  const classOf = ({ number, name }) => [number && "num", name].filter(Boolean).join(".");
  const cell = (tag, column, ...children) => h(classOf(column) ? `${tag}.${classOf(column)}` : tag, tag === "th" ? { scope: "col" } : {}, ...children);
  const whole = h(
    "table.table",
    {},
    h("caption.unseen", {}, caption),
    h("thead", {}, h("tr", {}, ...columns.map((column) => cell("th", column, column.title)))),
    h("tbody", {}, ...rows.map((row, i) => h("tr", { "data-key": key(row) }, ...columns.map((column) => cell("td", column, ...[column.text(row, i) ?? ""].flat()))))),
  );
  return h("div.sideways", { tabindex: "0", role: "region", "aria-label": caption }, whole);
}

/** What stands where a list has nothing: what that means, and what to do next. */
export function empty(title, ...next) {
  return h("div.empty-state", {}, h("h2", {}, title), ...next.map((line) => (typeof line === "string" ? h("p", {}, line) : line)));
}

/**
 * A list that is fetched page by page: a table, and a button for more.
 *
 * @param {object} options
 * @param {string} options.caption
 * @param {object[]} options.columns as in `table`
 * @param {(row: object) => string} options.key as in `table`
 * @param {(cursor: string|null) => Promise<{rows: object[], next: string|null}>} options.fetch
 * @param {() => Node} options.none makes what is shown when there is nothing
 * @param {(problem: Error) => void} options.failed
 */
export class Pages {
  #rows = [];
  #next = null;
  #turn = 0;

  constructor({ caption, columns, key, fetch, none, failed }) {
    Object.assign(this, { caption, columns, key, fetch, none, failed });
    this.more = h("button.more", { hidden: true, onclick: () => this.#load(this.#next) }, "More");
    this.body = h("div", {}, h("p.hint-block", { role: "status" }, "Loading…"));
    this.node = h("div.pages", {}, this.body, this.more);
  }

  /** Fetch as much as is shown anew, from the start. */
  reload() {
    return this.#load(null, this.#rows.length);
  }

  async #load(cursor, least = 0) {
    const turn = ++this.#turn;
    let rows = cursor === null ? [] : this.#rows;
    try {
      do {
        const page = await this.fetch(cursor);
        if (turn !== this.#turn) return;
        rows = [...rows, ...page.rows];
        cursor = page.next;
      } while (cursor !== null && rows.length < least);
      this.#rows = rows;
      this.#next = cursor;
    } catch (problem) {
      if (turn === this.#turn) {
        this.failed(problem);
        if (!this.#rows.length) renew(this.body, [empty("This could not be loaded", problem.message, h("button", { onclick: () => this.reload() }, "Try again"))]);
      }
      return;
    }
    this.more.hidden = this.#next === null;
    renew(this.body, [this.#rows.length ? table(this.caption, this.columns, this.#rows, this.key) : this.none()]);
  }
}
