/* A pipeline as a graph: a column for each layer, a box for each step in the colour of its state, a line for each dependency. */

import { duration } from "../core/format.js";
import { h } from "./dom.js";

const WIDTH = 184;
const HEIGHT = 44;
const GAP_X = 44;
const GAP_Y = 16;
const PAD = 12;
const SAG = 62; // of a line over other layers
const LETTERS = 23; // of a name in a box

/**
 * Draw a pipeline.
 *
 * @param {{nodes: object[], edges: {source: string, target: string}[], layers: string[][]}} pipeline
 * @param {Object<string, {status: string, duration_ms?: number}>} states by name of a step
 * @param {(name: string) => void} [choose] a step was chosen
 */
export function graph({ nodes, edges, layers }, states, choose = null) {
  const about = new Map(nodes.map((node) => [node.name, node]));
  const ordered = untangled(layers, edges);
  const rows = Math.max(1, ...ordered.map((layer) => layer.length));
  const places = new Map();
  ordered.forEach((layer, column) => {
    const top = PAD + ((rows - layer.length) * (HEIGHT + GAP_Y)) / 2;
    layer.forEach((name, row) => places.set(name, { x: PAD + column * (WIDTH + GAP_X), y: top + row * (HEIGHT + GAP_Y) }));
  });
  const width = 2 * PAD + ordered.length * (WIDTH + GAP_X) - GAP_X;
  const height = 2 * PAD + SAG / 2 + rows * (HEIGHT + GAP_Y) - GAP_Y;
  const lines = edges.filter(({ source, target }) => places.has(source) && places.has(target)).map(({ source, target }) => {
    const [from, to] = [places.get(source), places.get(target)];
    const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2];
    const far = x2 - x1 > GAP_X + 1; // over other layers: below their boxes
    const bend = far ? GAP_X : (x2 - x1) / 2;
    const sag = far ? SAG : 0;
    return h("path.edge", { d: `M${x1},${y1} C${x1 + bend},${y1 + sag} ${x2 - bend},${y2 + sag} ${x2},${y2}`, dataset: { done: states[source]?.status === "success" } });
  });
  const boxes = [...places].map(([name, { x, y }]) => {
    const state = states[name];
    const status = state?.status ?? "none";
    const { type = "", description = "" } = about.get(name) ?? {};
    const second = state?.duration_ms ? `${type} · ${duration(state.duration_ms)}` : type;
    const pick = choose && (() => choose(name));
    const keyed = pick && ((event) => ["Enter", " "].includes(event.key) && (event.preventDefault(), pick()));
    return h(
      "g.node",
      {
        transform: `translate(${x},${y})`,
        dataset: { status },
        role: pick ? "button" : "listitem",
        tabindex: pick ? "0" : null,
        "aria-label": `${name}, ${type}${state ? `, ${status}` : ""}`,
        onclick: pick,
        onkeydown: keyed,
      },
      h("title", {}, [name, description].filter(Boolean).join("\n")),
      h("rect", { width: WIDTH, height: HEIGHT, rx: 7 }),
      h("circle", { cx: 15, cy: HEIGHT / 2, r: 4 }),
      h("text.name", { x: 28, y: 19 }, name.length > LETTERS ? `${name.slice(0, LETTERS - 1)}…` : name),
      h("text.kind", { x: 28, y: 34 }, second),
    );
  });
  return h("div.graph", { tabindex: "0", role: "region", "aria-label": "Pipeline" }, h("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: choose ? "group" : "list", "aria-label": `Pipeline of ${nodes.length} steps in ${layers.length} layers` }, ...lines, ...boxes));
}

/* Each layer in the order of the middle of what its steps depend on, so that few lines cross. */
function untangled(layers, edges) {
  const before = new Map();
  for (const { source, target } of edges) before.set(target, [...(before.get(target) ?? []), source]);
  const place = new Map();
  return layers.map((layer) => {
    const middle = (name) => {
      const known = (before.get(name) ?? []).filter((one) => place.has(one)).map((one) => place.get(one));
      return known.length ? known.reduce((sum, one) => sum + one, 0) / known.length : layer.indexOf(name) / Math.max(1, layer.length);
    };
    const sorted = layer.map((name) => [middle(name), name]).sort(([a], [b]) => a - b).map(([, name]) => name);
    sorted.forEach((name, i) => place.set(name, (i + 0.5) / sorted.length));
    return sorted;
  });
}
