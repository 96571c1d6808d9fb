// Node with the package ws: one encoded buffer per message, one send per client.
// Run as: node ws_server.cjs PORT, with NODE_PATH where ws is installed.
"use strict";
const http = require("node:http");
const { WebSocketServer } = require("ws");

const rooms = new Map();

const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const items = JSON.parse(Buffer.concat(parts).toString());
    for (const item of items) {
      const data = Buffer.from(item.data);
      for (const socket of rooms.get(item.channel) ?? []) socket.send(data, { binary: false });
    }
    const body = JSON.stringify({ accepted: items.length });
    response.writeHead(200, { "content-type": "application/json", "content-length": body.length });
    response.end(body);
  });
});

const sockets = new WebSocketServer({ server, perMessageDeflate: false, clientTracking: false });
sockets.on("connection", (socket, request) => {
  const channel = request.url.slice("/ws/".length);
  if (!rooms.has(channel)) rooms.set(channel, new Set());
  const room = rooms.get(channel);
  room.add(socket);
  socket.on("close", () => room.delete(socket));
  socket.on("error", () => {});
});

server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
