// The way of the metrics as a picture: sockets, reading, rings, delivery, destination. What is lost branches off
// where it is lost. Pipes are drawn behind the cards, as wide as what flows through them.

import { at, figure, gain, h, label, refresh } from "./text.js";

const SOURCES_MAX = 8;
const SVG = "http://www.w3.org/2000/svg";

const REASONS = {
  ring_full: "no output's ring had room: outputs do not keep up",
  unrouted: "no output wants it",
  denied: "a rule says so",
  cardinality: "a new series over a limit",
  type_conflict: "no field has the type that is kept",
  rate_limited: "over the listener's rate",
  source_denied: "from a source that is not allowed",
  series_full: "the table of samples is full",
  drain_timeout: "the agent stopped, and the time for delivery was over",
  ring_torn: "left damaged by an earlier process",
  spool_full: "the spool is full, the oldest makes room",
  spool_age: "too old",
  spool_space: "the disk is full, the oldest makes room",
  spool_missing: "somebody else removed a file",
  spool_corrupt: "a file cannot be read",
  spool_dropped: "removed by a command",
};

const why = (reason) => REASONS[reason] ?? (/^spool/.test(reason) ? "" : "malformed");

// One loss: how many, how fast now, and why.
function loss(place, name, text) {
  return h("li.loss", { "data-if": place },
    h("strong", {}, figure(place, "loss")), " ", label(name.replaceAll("_", " "), "span"), " ",
    figure(place, "gain", "b"), text && h("small", {}, text));
}

const losses = (...items) => h("ul.losses", {}, ...items);

function source(listener) {
  const { name, address } = listener;
  const place = (...rest) => at("listeners", name, ...rest);
  return h("li.stack", {},
    h("div.card.source", { "data-flow": place("received") },
      h("h4", {}, label(name)), address !== name && h("p.sub", {}, label(address)),
      h("p", {}, figure(at("rates", "listeners", name, "received"), "rate", "span.big")),
      h("p.sub", {}, figure(place("received")), " received"),
      h("p.sub", { "data-if": place("queue_bytes") }, figure(place("queue_bytes"), "size"), " in the kernel's queue"),
      h("p.sub", { "data-if": place("connections") }, figure(place("connections")), " connections")),
    losses(loss(place("kernel_drops"), "datagrams in the kernel", "the receive buffer was full")));
}

function others(listeners) {
  const sum = (...kind) => listeners.map((one) => at(...kind, "listeners", one.name, "received")).join("+");
  return h("li.stack", {},
    h("div.card.source", { "data-flow": sum() },
      h("h4", {}, `${listeners.length} more`), h("p.sub", {}, "in the table below"),
      h("p", {}, figure(sum("rates"), "rate", "span.big"))));
}

function reading(status, reasons) {
  const guards = status.guards?.series_max;
  const tables = status.listeners.some((one) => one.aggregation);
  return h("div.stack", {},
    h("div.card.reading", { "data-flow": "listeners/*/received" },
      h("h4", {}, "Reading"),
      h("p", {}, figure("rates/listeners/*/received", "rate", "span.big")),
      h("p.sub", {}, figure("listeners/*/received"), " received"),
      h("p.sub", {}, figure("listeners/*/accepted"), " accepted"),
      tables && h("p.sub", {}, figure("listeners/*/aggregated"), " into tables"),
      tables && h("p.sub", {}, figure("listeners/*/aggregation/points"), " points out of them"),
      guards && h("p.sub", {}, figure("guards/series"), " of ", figure("guards/series_max"), " series")),
    losses(...reasons.map((reason) => loss(`listeners/*/dropped/${reason}`, reason, why(reason)))));
}

function sink(output, reasons) {
  const { name } = output;
  const place = (...rest) => at("outputs", name, ...rest);
  const ledger = (...rest) => place("ledger", ...rest);
  const delivered = at("rates", "outputs", name, "delivered");
  const dropped = reasons.filter((one) => !one.startsWith("spool"));
  const { spool, refused } = output.ledger;
  return h("li.sink", {},
    h("div.stack", {},
      h("div.card.ring", { "data-flow": ledger("written"), "data-level": ledger("waiting_bytes"), "data-of": ledger("capacity_bytes") },
        h("h4", {}, "Ring of ", label(name)),
        h("p", {}, figure(ledger("waiting"), "count", "span.big"), " waiting"),
        h("p.sub", {}, figure(ledger("waiting_bytes"), "size"), " of ", figure(ledger("capacity_bytes"), "size"))),
      losses(loss(ledger("missed"), "missed", "only other rings had room")),
      spool && h("div.card.basin", { "data-if": ledger("spool", "files"), "data-flow": ledger("spool", "stored"), "data-out": ledger("spool", "decided"), "data-level": ledger("spool", "bytes"), "data-of": place("spool_max_bytes") },
        h("h4", {}, "Spool on disk"),
        h("p", {}, figure(ledger("spooled"), "count", "span.big"), " waiting"),
        h("p.sub", {}, figure(ledger("spool", "bytes"), "size"), " of ", figure(place("spool_max_bytes"), "size"), ", oldest ", figure(ledger("spool", "oldest_ns"), "age"))),
      spool && losses(...reasons.filter((one) => one.startsWith("spool")).map((reason) => loss(ledger("dropped", reason), reason, why(reason))))),
    h("div.stack", {},
      h("div.card.delivery", { "data-flow": ledger("delivered"), "data-state-at": place("state") },
        h("h4", {}, "Delivery to ", label(name)),
        h("p", {}, figure(delivered, "rate", "span.big")),
        h("p.sub", {}, figure(place("state"), "word", "span.pill"), " breaker ", figure(place("breaker"), "word")),
        h("p.sub", {}, "p50 ", figure(at("delay", name, "p50"), "duration"), ", p99 ", figure(at("delay", name, "p99"), "duration")),
        h("p.sub", {}, "Requests: ", figure(place("limit")), " at once, ", figure(place("round_trip"), "duration"), " each")),
      losses(
        loss(ledger("rejected"), "rejected", refused ? "the destination refused it; kept in files" : "the destination refused it"),
        ...dropped.map((reason) => loss(ledger("dropped", reason), reason, why(reason))))),
    h("div.stack", {},
      h("div.card.target", { "data-flow": ledger("delivered"), "data-state-at": place("state") },
        h("h4", {}, label(output.type)),
        h("p.sub", {}, label(output.target || "no longer in the configuration")),
        h("p", {}, figure(ledger("delivered"), "count", "span.big"), " delivered"),
        h("p.sub", { "data-if": ledger("merged") }, figure(ledger("merged")), " merged into others"))));
}

const reasonsOf = (accounts) =>
  [...new Set(accounts.flatMap((one) => Object.keys(one.dropped).filter((reason) => one.dropped[reason])))].sort();

function build(status, listeners) {
  const shown = listeners.length > SOURCES_MAX ? listeners.slice(0, SOURCES_MAX - 1) : listeners;
  const rest = listeners.slice(shown.length);
  return h("div.flow", {},
    h("div.stage", {}, h("h3", {}, "Sockets"), h("ul.sources", {}, ...shown.map(source), rest.length ? others(rest) : undefined)),
    h("div.stage", {}, h("h3", {}, "Reader, guards, tables"), reading(status, reasonsOf(status.listeners))),
    h("div.stage.sinks", {},
      h("div.heads", { "aria-hidden": "true" }, h("h3", {}, "Rings"), h("h3", {}, "Delivery"), h("h3", {}, "Destination")),
      h("ul", {}, ...status.outputs.map((one) => sink(one, reasonsOf([one.ledger]))))));
}

// What the picture is made of: if it changes, it is drawn anew.
function shape(status, listeners) {
  return JSON.stringify([
    listeners.map((one) => [one.name, one.address]),
    reasonsOf(status.listeners),
    status.outputs.map((one) => [one.name, one.type, one.target, Boolean(one.ledger.spool), reasonsOf([one.ledger])]),
    Boolean(status.guards?.series_max),
    status.listeners.some((one) => one.aggregation),
  ]);
}

export class Flow {
  constructor(element) {
    this.element = element;
    this.shape = "";
    this.root = null;
    new ResizeObserver(() => this.draw()).observe(element);
  }

  show(root, before) {
    // What has left the configuration is in the table only.
    const listeners = root.listeners.filter((one) => one.sockets || one.received);
    const now = shape(root, listeners);
    if (now !== this.shape) {
      this.shape = now;
      this.pipes = document.createElementNS(SVG, "svg");
      this.pipes.setAttribute("aria-hidden", "true");
      this.element.replaceChildren(this.pipes, build(root, listeners));
    }
    this.root = root;
    this.before = before;
    refresh(this.element, root, before);
    this.draw();
  }

  draw() {
    if (!this.root) return;
    const cards = (what, inside = this.element) => [...inside.querySelectorAll(`.card.${what}`)];
    const origin = this.element.getBoundingClientRect();
    const [middle] = cards("reading");
    const paths = cards("source").map((card) => this.pipe(card, middle, card.dataset.flow, origin));
    for (const sink of this.element.querySelectorAll(".sink")) {
      const [[ring], [basin], [delivery], [target]] = ["ring", "basin", "delivery", "target"].map((what) => cards(what, sink));
      const flows = [[middle, ring, ring.dataset.flow], [ring, delivery, delivery.dataset.flow], [delivery, target, target.dataset.flow]];
      if (basin && !basin.hidden) flows.push([ring, basin, basin.dataset.flow], [basin, delivery, basin.dataset.out]);
      paths.push(...flows.map(([from, to, place]) => this.pipe(from, to, place, origin)));
    }
    this.pipes.setAttribute("width", origin.width);
    this.pipes.setAttribute("height", origin.height);
    this.pipes.replaceChildren(...paths);
  }

  // From one card to the next, as wide as the logarithm of what came to *place* in this second.
  pipe(from, to, place, origin) {
    const rate = gain(this.root, this.before, place);
    const [a, b] = [from.getBoundingClientRect(), to.getBoundingClientRect()];
    const path = document.createElementNS(SVG, "path");
    let line;
    if (b.left >= a.right) {
      const [x1, y1, x2] = [a.right - origin.left, a.top + Math.min(a.height, b.height) / 2 - origin.top, b.left - origin.left];
      const y2 = Math.max(b.top + 20, Math.min(b.bottom - 20, a.top + Math.min(a.height, b.height) / 2)) - origin.top;
      line = `M${x1} ${y1}C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`;
    } else {
      const x = Math.min(a.left, b.left) + 24 - origin.left;
      line = `M${x} ${a.bottom - origin.top}V${b.top - origin.top}`;
    }
    path.setAttribute("d", line);
    path.setAttribute("class", rate > 0 ? "pipe" : "pipe dry");
    path.setAttribute("stroke-width", rate > 0 ? 3 + 3 * Math.log10(1 + rate) : 2);
    return path;
  }
}
