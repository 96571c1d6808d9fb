/* Every view of the page, one line each: `path` is its address, `load` its module, `title` its name in the bar.

   A module gives `open(shell, root, place)`, which makes the view in `root` and returns, as far as it needs them, `draw(now)`,
   called in the next frame after `shell.redraw()` and once a second; `moved(place)`, told of another address of the same
   view; `key(event, typing)`, which tells whether it took the key; `title()`, for the window; `close()`.
   `beside` names the view that stays open at its left where there is room; `under` the one that is marked in the bar. */

export const VIEWS = [
  { name: "fleet", path: "", title: "Fleet", load: () => import("./fleet.js") },
  { name: "task", path: "tasks/:id", beside: "fleet", load: () => import("./task.js") },
  { name: "analytics", path: "analytics", title: "Analytics", load: () => import("./analytics.js") },
  { name: "agents", path: "agents", title: "Agents", load: () => import("./agents.js") },
  { name: "sessions", path: "sessions", title: "Sessions", load: () => import("./sessions.js") },
  { name: "workflows", path: "workflows", title: "Workflows", load: () => import("./workflows.js") },
  { name: "workflow", path: "workflows/:id", under: "workflows", load: () => import("./workflow.js") },
  { name: "run", path: "workflows/:id/runs/:run", under: "workflows", load: () => import("./run.js") },
  { name: "conversations", path: "conversations", title: "Conversations", load: () => import("./conversations.js") },
  { name: "conversation", path: "conversations/:id", beside: "conversations", load: () => import("./conversation.js") },
  { name: "webhooks", path: "webhooks", title: "Webhooks", load: () => import("./webhooks.js") },
  { name: "status", path: "status", title: "Status", load: () => import("./status.js") },
];

/** What is shown where an address names none of them. */
export const NOWHERE = { name: "nowhere", path: "", title: "No such view", load: () => import("./nowhere.js") };
