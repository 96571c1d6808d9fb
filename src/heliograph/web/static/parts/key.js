/* The dialog that asks for an API key. */

import { h } from "./dom.js";

/**
 * Ask for a key.
 *
 * @param {string} refused the service's words about the last one
 * @returns {Promise<string|null>} null: the reader gives none now
 */
export function askKey(refused) {
  const input = h("input", { type: "password", autocomplete: "off", required: true });
  const dialog = h(
    "dialog",
    { id: "ask-key", "aria-labelledby": "ask-title" },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "ask-title" }, "This service asks for a key"),
      h("p", {}, "It is traded for a session of this browser, which serves all tabs for some hours. The key itself is not kept."),
      h("p.refused", { role: "alert" }, refused),
      h("label", {}, "API key ", input),
      h("div.buttons", {}, h("button.primary", {}, "Continue"), h("button", { type: "button", onclick: () => dialog.close() }, "Not now")),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    let given = null;
    dialog.querySelector("form").addEventListener("submit", () => (given = input.value.trim() || null));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(given);
    });
  });
}
