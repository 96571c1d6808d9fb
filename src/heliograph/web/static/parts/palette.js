/* The palette: go to anything by a few letters of its name, or choose how the page looks. */

import { paths } from "../core/api.js";
import { nameOf } from "../core/fleet.js";
import { format } from "../core/route.js";
import { fill, h } from "./dom.js";
import { pill } from "./chips.js";

const SEARCH_MS = 200;
const FOUND = 8;

let dialog = null;

/**
 * Open the palette.
 *
 * @param {object} shell
 * @param {{title: string, does: () => void}[]} actions views and choices
 */
export function openPalette(shell, actions) {
  if (dialog) return;
  let items = [];
  let chosen = 0;
  let found = [];
  let timer = null;
  const input = h("input", { type: "search", placeholder: "Go to a view, a task, an agent…", "aria-label": "Go to", autocomplete: "off", spellcheck: "false", role: "combobox", "aria-expanded": "true", "aria-controls": "palette-list" });
  const list = h("ul", { id: "palette-list", role: "listbox", "aria-label": "What there is" });
  dialog = h("dialog.palette", { "aria-label": "Go to anything" }, input, list);

  function draw() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fitting = actions.filter(({ title }) => words.every((word) => title.toLowerCase().includes(word)));
    const agents = words.length ? [...shell.tasks.fleet.names("agent")].filter((name) => words.every((word) => name.toLowerCase().includes(word))) : [];
    items = [...fitting, ...agents.slice(0, FOUND).map((agent) => ({ title: agent, mark: h("kbd", {}, "agent"), does: () => shell.go([], { agent }) })), ...found];
    chosen = Math.max(0, Math.min(chosen, items.length - 1));
    fill(
      list,
      items.map(({ title, mark }, i) => h("li", { id: `palette-${i}`, role: "option", "aria-selected": String(i === chosen), onclick: () => take(i), onpointermove: () => choose(i) }, h("span", {}, title), mark)),
    );
    if (!items.length) fill(list, [h("li.quiet", { role: "option", "aria-disabled": "true" }, "Nothing is called so.")]);
    input.setAttribute("aria-activedescendant", items.length ? `palette-${chosen}` : "");
    list.children[chosen]?.scrollIntoView({ block: "nearest" });
  }

  function choose(i) {
    if (i === chosen) return;
    chosen = i;
    draw();
  }

  function take(i) {
    const { does } = items[i] ?? {};
    input.blur(); // or the next key would still be typed there
    dialog.close();
    does?.();
  }

  async function search() {
    const text = input.value.trim();
    found = [];
    if (!text) return;
    try {
      const { tasks } = await shell.api.get(paths.tasks, { text, limit: FOUND });
      if (text !== input.value.trim()) return;
      found = tasks.map((task) => ({ title: nameOf(task), mark: pill(task.status), does: () => shell.go(["tasks", task.task_id]) }));
      draw();
    } catch (problem) {
      shell.report(problem);
    }
  }

  input.addEventListener("input", () => {
    chosen = 0;
    draw();
    clearTimeout(timer);
    timer = setTimeout(search, SEARCH_MS);
  });
  input.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) choose((chosen + by + items.length) % Math.max(1, items.length));
    else if (event.key === "Enter") take(chosen);
    else if (event.key === "Escape") dialog.close(); // the field alone would only be emptied
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    clearTimeout(timer);
    dialog.remove();
    dialog = null;
  });
  document.body.append(dialog);
  draw();
  dialog.showModal();
}

/** The actions that lead to views. */
export function viewActions(shell, views) {
  return views.filter(({ title }) => title).map((view) => ({ title: view.title, mark: h("kbd", {}, "view"), does: () => (location.hash = format([view.path].filter(Boolean))) }));
}

/** The actions that change how the page looks. */
export function choiceActions(preferences) {
  return Object.entries(preferences.choices).flatMap(([name, values]) =>
    values.map((value) => ({ title: `${WORDS[name]}: ${value}`, mark: preferences.get(name) === value ? h("kbd", {}, "chosen") : null, does: () => preferences.set(name, value) })),
  );
}

const WORDS = { theme: "Theme", density: "Rows", times: "Times", notify: "Tell me of failures" };
