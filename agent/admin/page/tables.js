// The tables below the flow: every figure once more, by its name, sorted as one likes.

import { at, figure, format, h, label, read, refresh } from "./text.js";

// A column: its title, how its cells are made, and whether they are numbers.
const words = (title, cell) => ({ title, cell, text: true });
const number = (title, place, as = "count") => ({ title, cell: (one) => figure(place(one), as), numeric: true });

const listener = (...rest) => (one) => at("listeners", one.name, ...rest);
const output = (...rest) => (one) => at("outputs", one.name, ...rest);
const source = (...rest) => (one) => at("sources", one.agent, ...rest);
const objective = (...rest) => (one) => at("slo", one.output, ...rest);

const TABLES = [
  {
    title: "Listeners",
    rows: (root) => root.listeners,
    key: (one) => one.name,
    columns: () => [
      words("Listener", (one) => label(one.name)),
      number("Per second", (one) => at("rates", "listeners", one.name, "received"), "rate"),
      number("Datagrams", listener("datagrams")),
      number("Received", listener("received")),
      number("Accepted", listener("accepted")),
      number("Dropped", listener("dropped", "*"), "loss"),
      number("By the kernel", listener("kernel_drops"), "loss"),
      words("Why", (one) => figure(listener("dropped")(one), "reasons")),
    ],
  },
  {
    title: "Outputs",
    rows: (root) => root.outputs,
    key: (one) => one.name,
    columns: () => [
      words("Output", (one) => label(one.name)),
      words("State", (one) => figure(output("state")(one), "word", "span.pill")),
      words("Breaker", (one) => figure(output("breaker")(one), "word")),
      number("Written", output("ledger", "written")),
      number("Restored", output("ledger", "restored")),
      number("Delivered", output("ledger", "delivered")),
      number("Merged", output("ledger", "merged")),
      number("Rejected", output("ledger", "rejected"), "loss"),
      number("Spooled", output("ledger", "spooled")),
      number("Waiting", output("ledger", "waiting")),
      number("Dropped", output("ledger", "dropped", "*"), "loss"),
      number("Missed", output("ledger", "missed"), "loss"),
    ],
  },
  {
    title: "Requests",
    rows: (root) => root.outputs,
    key: (one) => one.name,
    columns: (root) => [
      words("Output", (one) => label(one.name)),
      number("Round trip", output("round_trip"), "duration"),
      number("At once", output("limit")),
      number("Batches", output("ledger", "batches")),
      number("Attempts", output("ledger", "attempts")),
      number("Retries", output("ledger", "retries")),
      number("Sent", output("ledger", "bytes_sent"), "size"),
      words("Answers", (one) => figure(output("ledger", "requests")(one), "reasons")),
      ...[...new Set(root.outputs.flatMap((one) => Object.keys(one.ledger.stages)))].map((stage) =>
        number(`In ${stage}`, output("ledger", "stages", stage), "duration")),
    ],
  },
  {
    title: "Spool and rejected, on disk",
    rows: (root) => root.outputs.filter((one) => one.ledger.spool || one.ledger.refused),
    key: (one) => one.name,
    columns: () => [
      words("Output", (one) => label(one.name)),
      number("Spool: metrics", output("ledger", "spool", "metrics")),
      number("files", output("ledger", "spool", "files")),
      number("size", output("ledger", "spool", "bytes"), "size"),
      number("limit", output("spool_max_bytes"), "size"),
      number("oldest", output("ledger", "spool", "oldest_ns"), "age"),
      number("Rejected: metrics", output("ledger", "refused", "metrics")),
      number("files", output("ledger", "refused", "files")),
      words("Trouble", (one) => ["spool", "refused"].map((kind) => {
        const place = output("ledger", kind, "failing")(one);
        return h("span", { "data-if": place }, figure(place, "word"), " ");
      })),
    ],
  },
  {
    title: "Sources, as seen by this relay; 100 at most. “penstock fleet” asks all relays, and knows what is missing",
    rows: (root) => root.sources ?? [],
    key: (one) => one.agent,
    columns: () => [
      words("Agent", (one) => [label(one.agent), h("span.lost", { "data-if": source("silent")(one) }, " silent")]),
      number("Rings", source("ring_count")),
      number("Per second", source("rate"), "rate"),
      number("p50", source("delay", "p50"), "duration"),
      number("p99", source("delay", "p99"), "duration"),
      number("Not seen here", source("missing")),
      number("Late", source("late")),
      number("Repeated", source("repeated")),
      number("Duplicates", source("duplicates")),
      number("Last seen", source("last_ns"), "age"),
    ],
  },
  {
    title: "Objective",
    rows: (root) => root.slo,
    key: (one) => one.output,
    columns: (root) => [
      words("Output", (one) => label(one.output)),
      words("State", (one) => figure(objective("state")(one), "word", "span.pill")),
      number("Share", objective("share"), "percent"),
      number("within", objective("within"), "duration"),
      number("over", objective("window"), "span"),
      number("Due", objective("due")),
      number("Late", objective("late"), "loss"),
      number("Budget left", objective("budget_left"), "percent"),
      ...Object.keys(root.slo[0].burn).map((seconds) =>
        number(`Burn ${format(Number(seconds), "span")}`, objective("burn", seconds), "times")),
    ],
  },
  {
    title: "Sockets",
    half: true,
    rows: (root) => root.listeners.flatMap((one) => one.sockets_by_lane.map((socket) => ({ name: one.name, ...socket }))),
    key: (one) => `${one.name} ${one.lane}`,
    columns: () => [
      words("Listener", (one) => label(one.name)),
      words("Lane", (one) => String(one.lane)),
      ...[["In the queue", "queue_bytes", "size"], ["Buffer", "receive_buffer_bytes", "size"], ["Dropped", "kernel_drops", "loss"]].map(([title, key, as]) =>
        number(title, (one) => at("listeners", one.name, "sockets_by_lane", String(one.lane), key), as)),
    ],
  },
  {
    title: "Threads",
    half: true,
    rows: (root) => root.threads,
    key: (one) => one.name,
    columns: () => [words("Thread", (one) => label(one.name)), number("Processor time", (one) => at("threads", one.name, "cpu_ns"), "ms")],
  },
  {
    title: "Most new series",
    rows: (root) => root.guards?.offenders ?? [],
    fixed: true,
    columns: () => [
      words("Measurement", (one) => label(one.measurement || "any")),
      words("Tag", (one) => label(one.tag || "the name itself")),
      words("Series", (one) => format(one.series, "count")),
      words("New a minute", (one) => format(one.per_minute, "count")),
      words("Refused", (one) => format(one.refused, "count")),
      words("Such as", (one) => one.samples.slice(0, 3).flatMap((sample, index) => [index ? ", " : "", label(sample)])),
      words("What would end it", (one) => (one.remedy ? h("pre", {}, one.remedy) : "–")),
    ],
  },
  {
    title: "Refused lines, the last ones",
    // The same line from the same listener is told once, with how often.
    rows: (root) => {
      const found = new Map();
      for (const one of root.samples.toReversed()) {
        const key = JSON.stringify([one.listener, one.reason, one.line]);
        found.set(key, found.has(key) ? { ...found.get(key), times: found.get(key).times + 1 } : { ...one, times: 1 });
      }
      return [...found.values()];
    },
    fixed: true,
    columns: () => [
      words("Seen", (one) => `${one.times}×`),
      words("Last at", (one) => format(one.time, "clock")),
      words("Listener", (one) => label(one.listener)),
      words("Reason", (one) => label(one.reason.replaceAll("_", " "))),
      words("Line", (one) => h("code", {}, label(one.line))),
    ],
  },
  {
    title: "Events, the last ones",
    rows: (root) => root.events.toReversed(),
    fixed: true,
    columns: () => [
      words("At", (one) => format(one.time, "moment")),
      words("What", (one) => one.kind),
      words("Of", (one) => label(one.name || "the agent")),
      words("Now", (one) => label(one.text)),
    ],
  },
  {
    title: "Last reload",
    rows: (root) => {
      const { last } = root.reload;
      if (!last) return [];
      const lines = last.applied ? last.changes : last.problems;
      return (lines.length ? lines : ["nothing has changed"]).map((text) => ({ ...last, text }));
    },
    fixed: true,
    columns: () => [
      words("At", (one) => format(one.time, "moment")),
      words("What became of it", (one) => (one.applied ? "applied" : "refused, the former configuration runs on")),
      words("Change or problem", (one) => label(one.text)),
    ],
  },
];

const flat = (cell) => (Array.isArray(cell) ? cell : [cell]);

class Table {
  constructor(plan) {
    this.plan = plan;
    this.shape = "";
    this.sorted = null;
    this.body = h("tbody");
    this.head = h("tr");
    this.section = h(plan.half ? "section.half" : "section", {},
      h("div.scroll", { tabindex: "0", role: "region", "aria-label": plan.title },
        h("table", {}, h("caption", {}, plan.title), h("thead", {}, this.head), this.body)));
  }

  show(root, before) {
    const rows = this.plan.rows(root);
    this.section.hidden = !rows.length;
    if (!rows.length) return;
    const columns = this.plan.columns(root);
    // Rows that say only what is in them are made anew when they change; others have figures, and names.
    const shape = JSON.stringify([columns.map((one) => one.title), this.plan.fixed ? rows : rows.map(this.plan.key)]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.build(rows, columns);
    }
    refresh(this.body, root, before);
    this.sort(root);
  }

  build(rows, columns) {
    // Buttons that are there stay there, so that nobody's focus is lost.
    if (this.titles !== columns.map((one) => one.title).join("\n")) {
      this.titles = columns.map((one) => one.title).join("\n");
      this.head.replaceChildren(...columns.map((column, index) => {
        const name = column.numeric ? "th.number" : "th";
        if (this.plan.fixed) return h(name, { scope: "col" }, column.title);
        const button = h("button", { type: "button" }, column.title);
        button.addEventListener("click", () => this.turn(index));
        return h(name, { scope: "col", "aria-sort": "none" }, button);
      }));
      this.sorted = null;
    }
    this.body.replaceChildren(...rows.map((row) => h("tr", {}, ...columns.map((column, index) => {
      const name = column.numeric ? "td.number" : "td";
      return index || this.plan.fixed ? h(name, {}, ...flat(column.cell(row))) : h("th", { scope: "row" }, ...flat(column.cell(row)));
    }))));
  }

  // Sort by a column: numbers from the largest, words from the first; once more turns it around.
  turn(index) {
    const numeric = this.head.children[index].classList.contains("number");
    this.sorted = this.sorted?.index === index ? { index, up: !this.sorted.up } : { index, up: !numeric };
    [...this.head.children].forEach((head, at) => {
      head.setAttribute("aria-sort", at !== index ? "none" : this.sorted.up ? "ascending" : "descending");
    });
    this.sort(this.root);
  }

  sort(root) {
    this.root = root;
    if (!this.sorted) return;
    const { index, up } = this.sorted;
    const value = (row) => {
      const figure = row.children[index].querySelector("[data-at]");
      const found = figure ? read(root, figure.dataset.at) : row.children[index].textContent;
      return typeof found === "object" ? row.children[index].textContent : found;
    };
    const rows = [...this.body.children];
    const order = rows.map((row) => ({ row, value: value(row) ?? "" }))
      .sort((a, b) => (up ? 1 : -1) * (a.value < b.value ? -1 : a.value > b.value ? 1 : 0)).map((one) => one.row);
    if (order.some((row, place) => row !== rows[place])) this.body.replaceChildren(...order);
  }
}

export class Tables {
  constructor(element) {
    this.tables = TABLES.map((plan) => new Table(plan));
    element.replaceChildren(...this.tables.map((table) => table.section));
  }

  show(root, before) {
    for (const table of this.tables) table.show(root, before);
  }
}
