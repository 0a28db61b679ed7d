// Whether it works, in a sentence or a few, the worst first.

import { clock, count, duration, gain, rate, read } from "./text.js";

function* outputs(root) {
  for (const one of root.outputs) {
    if (one.state === "ok" || one.state === "retired") continue;
    const { waiting, spooled } = one.ledger;
    const breaker = one.breaker === "closed" ? "" : `, breaker ${one.breaker.replace("_", " ")}`;
    yield {
      level: one.state === "holding" ? "bad" : "warn",
      change: `${one.name} is ${one.state}${breaker}`,
      text: `${one.name} is ${one.state} since ${clock(one.since)}${breaker}: ${one.last_error || "no reason is known"}. ` +
        `${count(waiting + spooled)} metrics wait, ${count(spooled)} of them on disk.`,
    };
  }
}

function* objectives(root) {
  for (const one of root.slo) {
    if (one.state === "ok") continue;
    const text = `${one.output} burns its error budget (${one.state}): ${count(one.late)} metrics were late, ` +
      `${(one.budget_left * 100).toFixed(1)} % of the budget is left.`;
    yield { level: one.state === "fast" ? "bad" : "warn", change: `${one.output}: objective ${one.state}`, text };
  }
}

function* losses(root, before) {
  const lost = (place) => gain(root, before, place);
  const kernel = lost("listeners/*/kernel_drops");
  if (kernel > 0) {
    yield { level: "bad", change: "the kernel drops datagrams", text: `The kernel drops ${rate(kernel)} datagrams: a receive buffer is full.` };
  }
  const dropped = lost("listeners/*/dropped/*");
  if (dropped > 0) {
    const known = [...new Set(root.listeners.flatMap((one) => Object.keys(one.dropped)))].sort();
    const rising = known.filter((reason) => lost(`listeners/*/dropped/${reason}`));
    yield { level: "warn", text: `${rate(dropped)} of what arrives is dropped (${rising.join(", ").replaceAll("_", " ")}).` };
  }
  const away = lost("outputs/*/ledger/rejected+outputs/*/ledger/missed+outputs/*/ledger/dropped/*");
  if (away > 0) yield { level: "bad", change: "outputs lose metrics", text: `Outputs lose ${rate(away)}: rejected, missed or dropped.` };
}

function* all(root, before) {
  if (root.state !== "running") yield { level: "warn", change: `the agent is ${root.state}`, text: `The agent is ${root.state}.` };
  for (const reason of root.not_ready) yield { level: "bad", change: `not ready: ${reason}`, text: `Not ready: ${reason}.` };
  if (root.ledger.balance === "broken") {
    yield { level: "bad", change: "the ledger does not balance", text: `The ledger does not balance: ${root.ledger.problems[0] ?? ""}` };
  }
  for (const trouble of root.detail) yield { level: "bad", change: trouble, text: trouble };
  yield* outputs(root);
  yield* objectives(root);
  yield* losses(root, before);
  if (root.fleet?.silent) {
    yield { level: "warn", change: "agents are silent", text: `${count(root.fleet.silent)} of ${count(root.fleet.agents)} agents that send here are silent.` };
  }
  const { last } = root.reload;
  if (last && !last.applied) {
    yield { level: "warn", change: "a reload was refused", text: `The last reload was refused, the former configuration runs on: ${last.problems[0]}` };
  }
}

function well(root) {
  const received = read(root, "listeners/*/received");
  if (!received) return "Ready, and nothing has arrived yet.";
  const slowest = Math.max(...Object.values(root.delay ?? {}).map((one) => one?.p99 ?? 0));
  const delay = slowest ? `, 99 of 100 within ${duration(slowest)}` : "";
  return `All is well: what arrives is delivered${delay}.`;
}

// {level, title, findings, changes}: *changes* has no figures in it, for whoever is told of changes only.
export function judge(root, before) {
  const findings = [...all(root, before)];
  findings.sort((a, b) => (a.level === "bad" ? 0 : 1) - (b.level === "bad" ? 0 : 1));
  const [first, ...rest] = findings;
  return {
    level: first?.level ?? "ok",
    title: first?.text ?? well(root),
    findings: rest.map((one) => one.text),
    changes: findings.flatMap((one) => one.change ?? []).join("; ") || "all is well",
  };
}
