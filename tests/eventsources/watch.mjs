// Watches an event stream with one of the clients that pages use: prints each event as a line of JSON, and parses the data of
// each block that it is given. usage: node watch.mjs CLIENT URL FOLDER_WITH_NODE_MODULES
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [client, url, folder] = process.argv.slice(2);
const require = createRequire(`${folder}/here.cjs`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const hear = (type, id, data) => console.log(JSON.stringify({ type, id, data: JSON.parse(data) }));
const OWN = ['open', 'keepalive', 'gap', 'reset', 'reconnect'];

function listen(source) {
  for (const name of ['load.tick', 'message', ...OWN]) {
    source.addEventListener(name, (event) => { if (typeof event.data === 'string') hear(name, event.lastEventId, event.data); });
  }
}

if (client.startsWith('eventsource')) {
  const { EventSource } = await load(client);
  listen(new EventSource(url));
} else if (client === 'event-source-polyfill') {
  const { EventSourcePolyfill } = require(client);
  listen(new EventSourcePolyfill(url));
} else {
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
  globalThis.window = { setTimeout, clearTimeout, fetch };
  const { fetchEventSource } = await load(client);
  await fetchEventSource(url, { openWhenHidden: true, onmessage: (event) => hear(event.event || 'message', event.id, event.data) });
}
