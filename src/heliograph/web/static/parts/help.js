/* The keys, in a dialog. */

import { h } from "./dom.js";

const KEYS = [
  ["Everywhere", [["Ctrl K", "go to anything"], ["?", "these keys"], ["g then f, a, w, c, s", "Fleet, Analytics, Workflows, Conversations, Status"]]],
  ["Fleet", [["/", "filter: several words, all must be found; ↓ to what is"], ["j k ↓ ↑", "next, previous task"], ["Enter", "open the task"], ["p", "hold the list still"], ["n", "show what is new"], ["Esc", "back, or clear the filter"]]],
  ["Log", [["Home End", "oldest line, newest line"], ["f", "follow the end"], ["w", "wrap long lines"], ["e E", "next, previous error"], ["s", "search; n and N go on"], ["a", "answer what the task asks"]]],
  ["Plots", [["← →", "read the column before, after"], ["Home End", "first, last column"]]],
];

export function openHelp() {
  if (document.getElementById("help")) return;
  const sections = KEYS.map(([title, keys]) => h("section", {}, h("h3", {}, title), h("dl", {}, ...keys.flatMap(([key, does]) => [h("dt", {}, ...key.split(" ").map((one) => (one === "then" ? " then " : h("kbd", {}, one.replace(",", ""))))), h("dd", {}, does)]))));
  const dialog = h("dialog.help", { id: "help", "aria-labelledby": "help-title" }, h("h2", { id: "help-title", tabindex: "-1", autofocus: true }, "Keys"), ...sections, h("button", { onclick: () => dialog.close() }, "Close"));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}
