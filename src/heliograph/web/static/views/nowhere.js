/* An address that names no view. */

import { h, put } from "../parts/dom.js";
import { empty } from "../parts/table.js";

export function open(shell, root) {
  const said = h("p", { dir: "auto" });
  const next = h("p", {}, h("a.button", { href: "#/" }, "Show the fleet"));
  root.classList.add("view");
  root.append(h("header.view-head", {}, h("h1", {}, "No such view")), h("div.view-body", {}, empty("Nothing is here", said, "The bar above leads to every view, and Ctrl K to any task, agent or workflow.", next)));

  function moved() {
    put(said, `No view has the address ${location.hash}: the link may be cut off, or wrong.`);
  }

  moved();
  return { moved, title: () => "No such view" };
}
