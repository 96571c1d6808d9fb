/* Plots over time: stacked columns with axes, a reading under the pointer or the arrow keys, and a table for readers.

   Drawn as SVG at the width that there is, so that lines and letters stay as they are meant. */

import { fill, h, renew } from "./dom.js";
import { table } from "./table.js";

const HEIGHT = 190;
const LEFT = 54;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 22;
const LABEL_PX = 64; // a label of the time axis and its distance to the next
const MOST_SERIES = 8; // as many colours as are told apart; what is less is one series

/** The steps of an axis: round numbers from 0 to at least the highest value, no closer than `least`. */
export function ticks(highest, least = 0, most = 4) {
  if (!(highest > 0)) return [0, 1];
  const raw = highest / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(least, power * [1, 2, 5, 10].find((one) => one * power >= raw));
  return Array.from({ length: Math.ceil(highest / step - 1e-9) + 1 }, (_, i) => i * step);
}

/** The series with the largest sums, and the rest of them as one. */
export function largest(series, most = MOST_SERIES) {
  const sum = ({ values }) => values.reduce((total, value) => total + (value ?? 0), 0);
  const sorted = [...series].sort((a, b) => sum(b) - sum(a));
  if (sorted.length <= most) return sorted;
  const rest = sorted.slice(most - 1);
  const values = rest[0].values.map((_, i) => rest.reduce((total, one) => total + (one.values[i] ?? 0), 0));
  return [...sorted.slice(0, most - 1), { name: `${rest.length} others`, values }];
}

export class Plot {
  #data = null;
  #at = null; // index of the column that is read
  #width = 0;

  /**
   * @param {string} title
   * @param {(value: number) => string} format of a value
   * @param {object} [axis]
   * @param {(value: number, step: number) => string} [axis.short] format of a value on the axis, given the distance between two
   * @param {number} [axis.least] the least distance between two
   */
  constructor(title, format, { short = format, least = 0 } = {}) {
    Object.assign(this, { title, format, short, least });
    this.svg = h("svg", { role: "img", tabindex: "0", height: HEIGHT });
    this.canvas = h("div.canvas", {}, this.svg);
    this.legend = h("ul.legend");
    this.reading = h("p.reading", { role: "status" });
    this.rows = h("div");
    this.node = h("figure.plot", {}, h("figcaption", {}, h("h2", {}, title), this.legend), this.canvas, this.reading, h("details.as-table", {}, h("summary", {}, "As a table"), this.rows));
    new ResizeObserver(() => this.#resized()).observe(this.canvas);
    this.svg.addEventListener("pointermove", (event) => this.#read(this.#columnAt(event.offsetX)));
    this.svg.addEventListener("pointerleave", () => this.#read(null));
    this.svg.addEventListener("blur", () => this.#read(null));
    this.svg.addEventListener("keydown", (event) => this.#keyed(event));
    this.node.lastElementChild.addEventListener("toggle", () => this.#fillTable());
  }

  /**
   * Show data.
   *
   * @param {object} data
   * @param {{label: string, long: string}[]} data.buckets labels that are empty, or have no room, are left out
   * @param {{name: string, values: number[], tone?: string}[]} data.series stacked, the first one below; `tone` names a colour
   * @param {{name: string, values: number[]}} [data.before] drawn as a line: the period before
   */
  show(data) {
    const filled = data.series.filter(({ values }) => values.some(Boolean));
    this.#data = { ...data, series: filled.length ? filled : data.series.slice(0, 1) };
    this.#at = this.#at === null ? null : Math.min(this.#at, data.buckets.length - 1);
    this.#draw();
    this.#fillTable();
  }

  #resized() {
    if (this.canvas.clientWidth === this.#width) return;
    this.#width = this.canvas.clientWidth;
    this.#draw();
  }

  #draw() {
    if (!this.#data || !this.#width) return;
    const { buckets, series, before } = this.#data;
    const width = this.#width;
    const sums = buckets.map((_, i) => series.reduce((total, { values }) => total + (values[i] ?? 0), 0));
    const steps = ticks(Math.max(...sums, ...(before?.values ?? [0])), this.least);
    const top = steps[steps.length - 1];
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    const column = (width - LEFT - RIGHT) / buckets.length;
    const x = (i) => LEFT + column * i;
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("aria-label", `${this.title}: ${buckets.length} columns; ${this.format(sums.reduce((a, b) => a + b, 0))} in all. Arrow keys read single ones.`);
    const grid = steps.flatMap((step) => [
      h("line.grid", { x1: LEFT, x2: width - RIGHT, y1: y(step), y2: y(step) }),
      h("text.axis", { x: LEFT - 8, y: y(step) + 4, "text-anchor": "end" }, this.short(step, steps[1])),
    ]);
    let free = 0; // from where on there is room for a label
    const labels = buckets.flatMap(({ label }, i) => {
      if (!label || x(i) < free) return [];
      free = x(i) + LABEL_PX;
      return [h("text.axis", { x: x(i) + Math.min(column, LABEL_PX) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, label)];
    });
    const gap = column > 5 ? Math.min(3, column * 0.2) : 0.4;
    const bars = buckets.flatMap((_, i) => {
      let from = 0;
      return series.flatMap(({ values, tone }, n) => {
        const value = values[i] ?? 0;
        if (!value) return [];
        const bar = h(`rect.${tone ?? `series-${n}`}`, { x: x(i) + gap / 2, width: Math.max(1, column - gap), y: y(from + value), height: Math.max(0.5, y(from) - y(from + value)) });
        from += value;
        return [bar];
      });
    });
    const line = before && h("polyline.before", { points: before.values.map((value, i) => `${x(i) + column / 2},${y(value ?? 0)}`).join(" ") });
    this.cursor = h("rect.cursor", { y: TOP, height: HEIGHT - TOP - BOTTOM, width: column, hidden: true });
    fill(this.svg, [...grid, this.cursor, ...bars, line, ...labels].filter(Boolean));
    fill(this.legend, [...series.map(({ name, tone }, n) => h("li", {}, h(`i.${tone ?? `series-${n}`}`), name)), ...(before ? [h("li", {}, h("i.before"), before.name)] : [])]);
    this.#read(this.#at);
  }

  #columnAt(offset) {
    if (!this.#data) return null;
    const i = Math.floor(((offset - LEFT) / (this.#width - LEFT - RIGHT)) * this.#data.buckets.length);
    return i >= 0 && i < this.#data.buckets.length ? i : null;
  }

  #keyed(event) {
    const last = (this.#data?.buckets.length ?? 0) - 1;
    const to = { ArrowLeft: (this.#at ?? last + 1) - 1, ArrowRight: (this.#at ?? -1) + 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    event.stopPropagation();
    this.#read(Math.max(0, Math.min(last, to)));
  }

  #read(i) {
    this.#at = i;
    if (!this.cursor) return;
    if (i === null) {
      this.cursor.setAttribute("hidden", "");
      this.reading.textContent = "";
      return;
    }
    const { buckets, series, before } = this.#data;
    const column = (this.#width - LEFT - RIGHT) / buckets.length;
    this.cursor.removeAttribute("hidden");
    this.cursor.setAttribute("x", LEFT + column * i);
    const parts = series.filter(({ values }) => values[i]).map(({ name, values }) => `${name} ${this.format(values[i])}`);
    if (before) parts.push(`${before.name} ${this.format(before.values[i] ?? 0)}`);
    this.reading.textContent = `${buckets[i].long}: ${parts.join(" · ") || "nothing"}`;
  }

  #fillTable() {
    if (!this.node.lastElementChild.open || !this.#data) return;
    const { buckets, series } = this.#data;
    const columns = [{ title: "Time", text: ({ long }) => long }, ...series.map(({ name, values }) => ({ title: name, number: true, text: (_, i) => this.format(values[i] ?? 0) }))];
    renew(this.rows, [table(this.title, columns, buckets)]);
  }
}
