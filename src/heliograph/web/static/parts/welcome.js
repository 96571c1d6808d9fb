/* What an empty fleet shows: the commands that make a task. */

import { copied, h } from "./dom.js";

/** @param {string} address of the service */
export function welcome(address) {
  const elsewhere = /^http:\/\/(127\.0\.0\.1|localhost):5000\/$/.test(address) ? "" : `HELIOGRAPH_URL=${address.replace(/\/$/, "")} `;
  return h(
    "div",
    { id: "welcome", hidden: true },
    h("h2", {}, "No tasks yet"),
    h("p", {}, "Run any program as a task. Its output appears here line by line, and its exit status ends the task."),
    command(`${elsewhere}heliograph exec --agent build -- python -m compileall -q -f /usr/lib/python3`),
    h("p", {}, "Or publish from anywhere, in one request:"),
    command(`curl ${address}api/v1/events -H 'Content-Type: application/json' \\\n  -d '{"type": "task_output", "task_id": "hello", "output": "Hello, fleet"}'`),
  );
}

function command(text) {
  return h("div.command", {}, h("code", {}, text), h("button", { onclick: ({ target }) => copied(target, text) }, "Copy"));
}
