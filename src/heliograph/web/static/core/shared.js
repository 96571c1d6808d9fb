/* The streams of all tabs over one WebSocket: a SharedWorker holds `Streams`, each tab speaks to it.

   `SharedStreams` has the methods of `Streams`, and `serve` is the worker's side. Where a browser has no
   SharedWorker the tab has a WebSocket of its own. A tab that was closed
   mostly says so; one that did not stops being heard of. No DOM here. */

const HERE_MS = 20_000;
const GONE_MS = 150_000; // the timers of hidden tabs may run once a minute only

export class SharedStreams {
  state = { name: "idle", since: null, next: null };

  #port;
  #listeners = new Map();
  #next = 1;

  /** @param {MessagePort} port to the worker; `on` as in `Streams` */
  constructor(port, on) {
    this.#port = port;
    port.onmessage = ({ data: [name, id, value] }) => {
      if (name === "state") this.state = value;
      if (id === null) on[name](...[value].flat());
      else this.#listeners.get(id)?.[name]?.(value);
    };
    setInterval(() => port.postMessage(["here"]), HERE_MS);
    addEventListener("pagehide", () => port.postMessage(["bye"]));
  }

  subscribe(wanted, on) {
    const id = this.#next++;
    this.#listeners.set(id, on);
    this.#port.postMessage(["subscribe", id, wanted]);
    return {
      cancel: () => {
        this.#listeners.delete(id);
        this.#port.postMessage(["cancel", id]);
      },
    };
  }

  wake() {
    this.#port.postMessage(["wake"]);
  }

  restart() {
    this.#port.postMessage(["restart"]);
  }

  /** A tab that lacks a key does not stop the others. */
  stop() {
    for (const id of this.#listeners.keys()) this.#port.postMessage(["cancel", id]);
    this.#listeners.clear();
  }
}

/**
 * Serve tabs in a worker.
 *
 * @param {(on: object) => import("./streams.js").Streams} make makes the streams with these handlers
 * @returns {(port: MessagePort) => void} takes one more tab
 */
export function serve(make) {
  const tabs = new Set();
  const tellAll = (name) => (...values) => {
    for (const tab of tabs) tab.port.postMessage([name, null, values]);
  };
  const streams = make({
    state: (state) => tabs.forEach((tab) => tab.port.postMessage(["state", null, state])),
    problem: tellAll("problem"),
    refused: tellAll("refused"),
    failed: tellAll("failed"),
  });
  const leave = (tab) => {
    for (const one of tab.listeners.values()) one.cancel();
    tabs.delete(tab);
  };
  setInterval(() => {
    for (const tab of tabs) if (Date.now() - tab.heard > GONE_MS) leave(tab);
  }, HERE_MS);
  return (port) => {
    const tab = { port, listeners: new Map(), heard: Date.now() };
    tabs.add(tab);
    const does = {
      here: () => tabs.add(tab),
      bye: () => leave(tab),
      wake: () => streams.wake(),
      restart: () => streams.restart(),
      subscribe: (id, wanted) => {
        const tell = (name) => (message) => port.postMessage([name, id, message]);
        const on = Object.fromEntries(["message", "gap", "reset", "subscribed"].map((name) => [name, tell(name)]));
        tab.listeners.set(id, streams.subscribe(wanted, on));
      },
      cancel: (id) => {
        tab.listeners.get(id)?.cancel();
        tab.listeners.delete(id);
      },
    };
    port.onmessage = ({ data: [name, ...values] }) => {
      tab.heard = Date.now();
      does[name](...values);
    };
    port.postMessage(["state", null, streams.state]);
  };
}
