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

// The client's sockets do not keep the process alive.
const alive = setInterval(() => {}, 1000);

async function sendAll() {
  // One behind the other: what a full Unix socket does not take is sent later by the client, out of order.
  for (const [method, ...parameters] of input.calls) {
    await new Promise((resolve, reject) => {
      client[method](...parameters, (error) => (error ? reject(error) : resolve()));
    });
  }
  await new Promise((resolve, reject) => {
    client.close((error) => (error ? reject(error) : resolve()));
  });
}

sendAll()
  .catch(fail)
  .finally(() => clearInterval(alive));
