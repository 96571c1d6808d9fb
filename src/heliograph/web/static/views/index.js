/* Every view of the page, one line each: `path` is its address, `load` its module, `title` its name in the bar.

   A module gives `open(shell, root, place)`, which makes the view in `root` and returns `draw(now)`, called in the next
   frame after `shell.redraw()` and once a second; `moved(place)`, told of another address of the same view; `close()`.
   `beside` names the view that stays open at its left where there is room. */

export const VIEWS = [
  { name: "fleet", path: "", title: "Fleet", load: () => import("./fleet.js") },
  { name: "task", path: "tasks/:id", beside: "fleet", load: () => import("./task.js") },
  { name: "analytics", path: "analytics", title: "Analytics", load: () => import("./analytics.js") },
  { name: "agents", path: "agents", title: "Agents", load: () => import("./agents.js") },
  { name: "status", path: "status", title: "Status", load: () => import("./status.js") },
];
