/* The SharedWorker: one WebSocket for every tab of this page. */

import { Api } from "./api.js";
import { serve } from "./shared.js";
import { Streams } from "./streams.js";

const api = new Api(new URLSearchParams(location.hash.slice(1)).get("base"));
const take = serve((on) => new Streams({ connect: () => api.connect(), on }));

addEventListener("connect", ({ ports: [port] }) => take(port));
