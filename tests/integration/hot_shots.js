// Sends with npm's hot-shots what test_statsd_clients.py wrote to our standard input:
// {"options": of the client, "calls": [[method, ...arguments], ...]}.
"use strict";

const fs = require("fs");
const StatsD = require("hot-shots");

const input = JSON.parse(fs.readFileSync(0, "utf8"));

// No sample is left out by its rate, so that what is sent is known.
Math.random = () => 0;

function fail(error) {
  console.error(error);
  process.exitCode = 1;
}

const client = new StatsD({ ...input.options, errorHandler: fail });
for (const [method, ...parameters] of input.calls) {
  client[method](...parameters);
}

// The client's sockets do not keep the process alive.
const alive = setInterval(() => {}, 1000);
client.close((error) => {
  clearInterval(alive);
  if (error) {
    fail(error);
  }
});
