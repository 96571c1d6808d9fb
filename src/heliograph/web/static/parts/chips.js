/* Small marks: a status, a count, a number with what it was before. */

import { age } from "../core/format.js";
import { h } from "./dom.js";

/** A status in its colour, in its own words or others; those of other worlds are shown in the colour of the one that they mean. */
export function pill(status, words = status.replaceAll("_", " ")) {
  return h("span.pill", { dataset: { status: MEANS[status] ?? status } }, words);
}

const MEANS = { success: "completed", pending: "queued", skipped: "cancelled", paused: "waiting_input", received: "queued", accepted: "completed", healthy: "completed", ok: "completed", ready: "completed", active: "running" };

/** A time: how long ago, with the whole of it at hand; `tick` lets it go on. */
export function ago(iso, now) {
  if (!iso) return "";
  return h("time.ago", { datetime: iso, title: new Date(iso).toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" }) }, age(now - Date.parse(iso)));
}

/** Bring what `ago` has made up to date. */
export function tick(now) {
  for (const node of document.querySelectorAll("time.ago")) {
    const text = age(now - Date.parse(node.dateTime));
    if (node.textContent !== text) node.textContent = text;
  }
}

/** A number that matters, its name, and what share of itself it changed by. */
export function figure(name, value, change = null, better = null) {
  const direction = change === null || change === 0 || better === null ? "" : change > 0 === better ? "good" : "bad";
  const said = change === null ? null : h("span.change", { dataset: { direction }, title: "against the period before" }, `${change > 0 ? "+" : "−"}${Math.abs(change) >= 10 ? `${Math.round(Math.abs(change))}×` : `${Math.round(Math.abs(change) * 100)} %`}`);
  return h("div.figure", {}, h("dt", {}, name), h("dd", {}, value, " ", said));
}
