/* The conversations, the one that changed last first. */

import { paths } from "../core/api.js";
import { count } from "../core/format.js";
import { format } from "../core/route.js";
import { ago } from "../parts/chips.js";
import { fill, h, renew } from "../parts/dom.js";
import { Reload } from "../parts/reload.js";
import { empty } from "../parts/table.js";

const RELOAD_MS = 1_500;
const TYPING_MS = 250;
const PAGE = 50;

export function open(shell, root, place) {
  const { api } = shell;
  const find = h("input", { type: "search", placeholder: "Search in titles", "aria-label": "Search in titles", autocomplete: "off" });
  const archived = h("select", { "aria-label": "Which" }, new Option("Current", ""), new Option("Archived", "true"));
  const make = h("button.primary", { onclick: begin }, "New");
  const list = h("ul.conversations", {}, h("li.hint-block", { role: "status" }, "Loading…"));
  const more = h("button.more", { hidden: true, onclick: () => load(next) }, "More");
  let found = [];
  let next = null;
  let turn = 0;
  let selected = null;
  let subscription = null;
  const reload = new Reload(() => load(), RELOAD_MS);
  let typing = null;
  root.classList.add("view");
  root.append(h("header.view-head", {}, h("h1", {}, "Conversations"), h("span.gap"), make), h("div.tools", {}, h("label.find", {}, find), archived), h("div.view-body.flush", {}, list, more));

  async function load(cursor = null) {
    const now = ++turn;
    const query = { search: find.value.trim(), archived: archived.value, limit: PAGE };
    const shown = cursor === null ? found.length : 0;
    let rows = cursor === null ? [] : found;
    try {
      do {
        const { conversations, meta } = await api.get(paths.conversations, { ...query, cursor });
        if (now !== turn) return;
        rows = [...rows, ...conversations];
        cursor = meta.next_cursor;
      } while (cursor !== null && rows.length < shown);
      [found, next] = [rows, cursor];
      show();
      subscription ??= shell.streams.subscribe({ channel: "conversation:*", every: 1 }, { message: reload.soon });
    } catch (problem) {
      if (now !== turn) return;
      shell.report(problem);
      if (!found.length) fill(list, [h("li", {}, empty("The conversations could not be loaded", problem.message, h("button", { onclick: () => load() }, "Try again")))]);
    }
  }

  function show() {
    more.hidden = next === null;
    const none = find.value || archived.value ? empty("None is called so") : empty("No conversations yet", "Begin one, and say something: an engine that is connected answers here, word by word.", h("button.primary", { onclick: begin }, "New conversation"));
    renew(list, found.length ? found.map(row) : [h("li", {}, none)]);
  }

  function row(one) {
    const facts = [`${count(one.message_count)} ${one.message_count === 1 ? "message" : "messages"}`, one.total_tasks ? `${count(one.total_tasks)} ${one.total_tasks === 1 ? "task" : "tasks"}` : null].filter(Boolean).join(" · ");
    return h(
      "li",
      { "data-key": one.conversation_id },
      h("a", { href: format(["conversations", one.conversation_id], place.query), "aria-current": one.conversation_id === selected ? "true" : null }, h("b", {}, one.title || one.conversation_id), h("span.num", {}, ago(one.updated_at, shell.now())), h("span.quiet", {}, facts)),
    );
  }

  async function begin() {
    try {
      const { conversation_id } = await api.send("POST", paths.conversations, { title: "New conversation" });
      shell.go(["conversations", conversation_id]);
      load();
    } catch (problem) {
      shell.report(problem);
    }
  }

  function moved({ values }) {
    selected = values.id ?? null;
    if (found.length) show();
  }

  find.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => load(), TYPING_MS);
  });
  archived.addEventListener("change", () => load());
  moved(place);
  load();
  return {
    moved,
    title: () => "Conversations",
    close() {
      turn += 1;
      reload.close();
      subscription?.cancel();
    },
  };
}
