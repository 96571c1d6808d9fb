/* One conversation: its messages as they come, word by word, and a place to say something. */

import { paths } from "../core/api.js";
import { moment, money } from "../core/format.js";
import { Messages } from "../core/messages.js";
import { format } from "../core/route.js";
import { ask as askFor, confirmed } from "../parts/dialog.js";
import { fill, h, put } from "../parts/dom.js";
import { prose } from "../parts/prose.js";
import { empty } from "../parts/table.js";

const LAST = 100; // messages at first
const PAGE = 200;
const MOST = 1_000; // messages that are kept while the reader follows the newest, unless all were asked for
const NEAR = 60; // pixels from the end at which the view follows it

export function open(shell, root, place) {
  const { api } = shell;
  let chat = null;

  function moved(next) {
    if (chat?.id === next.values.id) return;
    chat?.close();
    chat = talk(shell, root, api, next.values.id);
  }

  root.classList.add("view", "chat");
  moved(place);
  return { moved, draw: () => chat.draw(), title: () => chat.title(), key: (event, writing) => chat.key(event, writing), close: () => chat.close() };
}

function talk(shell, root, api, id) {
  const title = h("h1", {}, id);
  const facts = h("span.quiet");
  const clear = h("button", { onclick: empties }, "Clear");
  const remove = h("button", { onclick: removes }, "Delete");
  const archive = h("button", { onclick: () => change({ is_archived: !about.is_archived }) }, "Archive");
  const rename = h("button", { onclick: ask }, "Rename");
  const all = h("button.more", { hidden: true, onclick: loadAll }, "From the beginning");
  const list = h("ol.messages", { "aria-live": "polite", "aria-label": "Messages" });
  const scroller = h("div.view-body", { tabindex: "0" }, all, list);
  const text = h("textarea", { rows: "2", placeholder: "Say something", "aria-label": "Message" });
  const send = h("button.primary", {}, "Send");
  const form = h("form.composer", {}, text, send);
  const gone = [rename, archive, clear, remove, form, all]; // when the conversation is
  const messages = new Messages();
  const nodes = new Map();
  let about = {};
  let subscription = null;
  let closed = false;
  let follow = true;
  let whole = false; // whether all messages were asked for
  let draft = null; // what is to be said, and its id: a retry with the same id says nothing twice
  root.replaceChildren(h("header.view-head", {}, h("a.button", { href: format(["conversations"]), "aria-label": "Back to the conversations" }, "←"), title, facts, h("span.gap"), h("div.buttons", {}, rename, archive, clear, remove)), scroller, form);

  async function load() {
    subscription?.cancel();
    try {
      const [found, page] = await Promise.all([api.get(paths.conversation(id)), api.get(paths.messages(id), { tail: LAST })]);
      if (closed) return;
      about = found;
      messages.merge(page.messages);
      messages.merge(page.growing, true);
      if (!messages.list.length) text.focus();
      all.hidden = found.message_count <= page.messages.length;
      subscription = shell.streams.subscribe({ channel: `conversation:${id}`, after: page.meta.stream_cursor }, { message: take, gap: load, reset: load });
    } catch (problem) {
      if (closed) return;
      if (problem.status !== 404) shell.report(problem);
      else if (!form.hidden) {
        gone.forEach((node) => (node.hidden = true));
        fill(list, [h("li", {}, empty("There is no such conversation", "It may have been deleted.", h("a.button", { href: format(["conversations"]) }, "All conversations")))]);
      }
    }
    shell.redraw();
  }

  async function loadAll() {
    all.hidden = whole = true;
    try {
      let cursor = "";
      while (cursor !== null && !closed) {
        const page = await api.get(paths.messages(id), { limit: PAGE, cursor });
        messages.merge(page.messages);
        cursor = page.meta.next_cursor;
      }
    } catch (problem) {
      shell.report(problem);
    }
    shell.redraw();
  }

  function take(event) {
    if (event.topic === "conversation.updated") Object.assign(about, event.payload);
    else if (event.topic === "conversation.deleted") return load();
    messages.take(event);
    if (follow && !whole && messages.list.length > MOST * 1.1 && messages.keep(MOST)) all.hidden = false;
    shell.redrawSoon();
  }

  async function say(event) {
    event.preventDefault();
    const content = text.value.trim();
    if (!content || send.disabled) return;
    send.disabled = true;
    if (draft?.content !== content) draft = { content, message_id: `msg-${crypto.getRandomValues(new Uint32Array(3)).join("")}` };
    try {
      messages.merge([await api.send("POST", paths.messages(id), { role: "user", ...draft })]);
      draft = null;
      text.value = "";
      follow = true;
    } catch (problem) {
      shell.report(problem);
    }
    send.disabled = false;
    text.focus();
    shell.redraw();
  }

  async function change(what) {
    try {
      about = { ...about, ...(await api.send("PUT", paths.conversation(id), what)) };
    } catch (problem) {
      shell.report(problem);
    }
    shell.redraw();
  }

  const titled = () => `“${about.title || id}”`;

  function ask() {
    const field = { name: "title", label: "Title", value: about.title ?? "", required: true, most: 1000 };
    return askFor({ title: "Rename the conversation", fields: [field], action: "Rename", does: async (said) => void (about = { ...about, ...(await api.send("PUT", paths.conversation(id), said)) }) }).then(shell.redraw);
  }

  function empties() {
    const text = "Its messages are gone for everybody, and can't be brought back. The conversation, and the tasks that came of it, stay.";
    return confirmed({ title: `Clear ${titled()}?`, text, action: "Clear", does: () => api.send("POST", paths.clearConversation(id)) });
  }

  async function removes() {
    const text = "The conversation and its messages are gone for everybody, and can't be brought back. The tasks that came of it stay.";
    const done = await confirmed({ title: `Delete ${titled()}?`, text, action: "Delete", does: () => api.send("DELETE", paths.conversation(id)) });
    if (done && !closed) shell.go(["conversations"]);
  }

  function draw() {
    if (form.hidden) return;
    put(title, about.title || id);
    put(archive, about.is_archived ? "Bring back" : "Archive");
    put(facts, [about.flow_id, about.total_cost_usd ? money(about.total_cost_usd) : null].filter(Boolean).join(" · "));
    const now = shell.now();
    const shown = messages.list.map((message) => nodeOf(message, now));
    if (nodes.size > shown.length) forgetNodes();
    if (shown.length) fill(list, shown);
    else if (about.conversation_id) fill(list, [h("li.hint-block", {}, "Nothing was said yet.")]);
    if (follow) scroller.scrollTop = scroller.scrollHeight;
  }

  function forgetNodes() {
    const there = new Set(messages.list.map(({ id: one }) => one));
    for (const one of nodes.keys()) if (!there.has(one)) nodes.delete(one);
  }

  function nodeOf(message, now) {
    let node = nodes.get(message.id);
    if (!node) {
      node = h("li.message", {}, h("header", {}, h("b"), " ", h("time", { datetime: message.created_at }), h("span.task")), h("div.prose"));
      nodes.set(message.id, node);
    }
    if (node.dataset.last === message.last) return node;
    node.dataset.last = message.last;
    node.dataset.role = message.role;
    node.toggleAttribute("data-growing", message.growing);
    put(node.querySelector("b"), message.role === "user" ? "You" : message.role);
    put(node.querySelector("time"), moment(message.created_at, now));
    fill(node.querySelector(".task"), message.task_id ? [h("a", { href: format(["tasks", message.task_id]) }, "its task")] : []);
    fill(node.querySelector(".prose"), prose(message.content));
    return node;
  }

  scroller.addEventListener("scroll", () => (follow = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR), { passive: true });
  form.addEventListener("submit", say);
  text.addEventListener("keydown", (event) => {
    if (event.key === "Escape") scroller.focus();
    else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) say(event);
    else return;
    event.stopPropagation();
  });
  load();
  return {
    id,
    draw,
    title: () => about.title || id,
    key({ key: pressed }, writing) {
      if (writing || pressed !== "Escape") return false;
      shell.go(["conversations"]);
      return true;
    },
    close() {
      closed = true;
      subscription?.cancel();
    },
  };
}
