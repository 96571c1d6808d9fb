/* The dialog that asks for an API key. */

import { h } from "./dom.js";

let dialog = null;

/**
 * Ask for a key; a dialog that is open already takes the new reason.
 *
 * @param {{refused: string}} why the service's words about the last one
 * @param {(key: string) => void} take
 */
export function askKey({ refused }, take) {
  dialog ??= make();
  dialog.querySelector(".refused").textContent = refused;
  dialog.querySelector("form").onsubmit = () => take(dialog.querySelector("input").value.trim());
  if (!dialog.open) dialog.showModal();
}

function make() {
  const node = h(
    "dialog",
    { id: "ask-key", "aria-labelledby": "ask-title" },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "ask-title" }, "This service asks for a key"),
      h("p", {}, "The key is kept in this tab only, and forgotten when you close it."),
      h("p.refused", { role: "alert" }),
      h("label", {}, "API key ", h("input", { type: "password", autocomplete: "off", required: true })),
      h("button.primary", {}, "Continue"),
    ),
  );
  document.body.append(node);
  return node;
}
