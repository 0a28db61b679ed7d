// The page: what each second brings goes to the flow, the plots and the tables. Text is text, whatever it says.

import { Flow } from "./flow.js";
import { Plots } from "./plots.js";
import { Stream } from "./stream.js";
import { Tables } from "./tables.js";
import { at, clock, figure, h, label, refresh } from "./text.js";
import { judge } from "./verdict.js";

const $ = (id) => document.getElementById(id);

const TILES_MAX = 3;

// The figures that one looks for first. Each output delivers what has arrived: their sum would mislead.
function glance(outputs) {
  const delivered = outputs.length <= TILES_MAX
    ? outputs.map((name) => [["Delivered to ", label(name)], figure(at("rates", "outputs", name, "delivered"), "rate")])
    : [[["Delivered by all outputs"], figure("rates/outputs/*/delivered", "rate")]];
  return [
    [["Arrives"], figure("rates/listeners/*/received", "rate")],
    ...delivered,
    [["Lost"], figure("rates/listeners/*/lost+rates/outputs/*/lost", "rate")],
    [["Waiting"], figure("outputs/*/ledger/waiting+outputs/*/ledger/spooled", "count")],
    [["Ledger"], figure("ledger/balance", "word", "span.pill")],
  ].map(([title, value]) => h("div", {}, h("dt", {}, ...title), h("dd", {}, value)));
}

class Page {
  constructor() {
    this.flow = new Flow($("flow"));
    this.tables = new Tables($("tables"));
    this.plots = new Plots($("plots"));
    this.root = this.before = null;
    this.paused = false;
    $("facts").append(
      figure("state", "word", "span.pill"), " for ", figure("started", "since"),
      h("span", { id: "host" }), h("span", { id: "config" }));
    $("pause").addEventListener("click", () => this.pause());
    $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark", this.plots));
  }

  hello(hello) {
    this.host = hello.host;
    $("host").replaceChildren(" on ", label(hello.host), `, process ${hello.pid}`);
    $("config").replaceChildren(", ", label(hello.config));
    $("build").replaceChildren(
      `Penstock ${hello.version}, Python ${hello.build.python}, ${hello.build.isa}, ${window.uPlot ? "with" : "without"} plots.` +
      (hello.truncated ? ` ${hello.truncated} listeners and outputs have no history: there are too many.` : ""));
    this.plots.hello(hello);
  }

  second(root) {
    this.plots.add(root);
    // Another process has counters of its own: nothing came between them.
    this.newest = root;
    if (!this.paused) this.show();
  }

  show() {
    const root = this.newest;
    if (!root || root === this.root) return;
    this.before = this.root?.pid === root.pid ? this.root : null;
    this.root = root;
    document.body.classList.remove("stale");
    const verdict = judge(root, this.before);
    this.say(verdict.level, verdict.title, verdict.findings);
    this.announce(verdict.changes);
    refresh($("facts"), root, this.before);
    this.glance(root);
    this.flow.show(root, this.before);
    this.tables.show(root, this.before);
    this.plots.show();
    window.penstock = { shown: root };
  }

  glance(root) {
    const outputs = root.outputs.filter((one) => one.state !== "retired").map((one) => one.name);
    if (this.outputs !== outputs.join("\n")) {
      this.outputs = outputs.join("\n");
      $("glance").replaceChildren(...glance(outputs));
    }
    refresh($("glance"), root, this.before);
  }

  say(level, title, findings) {
    $("verdict-box").dataset.level = level;
    if ($("verdict").textContent !== title) $("verdict").textContent = title;
    document.title = `${level === "ok" ? "" : "! "}Penstock${this.host ? ` on ${this.host}` : ""}`;
    if ($("findings").textContent !== findings.join("")) $("findings").replaceChildren(...findings.map((text) => h("li", {}, label(text, "span"))));
  }

  // For screen readers: changes of state, not figures.
  announce(text) {
    if ($("announce").textContent !== text) $("announce").textContent = text;
  }

  lost(reason) {
    document.body.classList.add("stale");
    const since = this.newest ? `No connection since ${clock(this.newest.time)}; these numbers are old.` : "The agent does not answer.";
    this.say("bad", since, [reason]);
    this.announce("no connection to the agent");
  }

  pause() {
    this.paused = !this.paused;
    $("pause").setAttribute("aria-pressed", String(this.paused));
    $("pause").textContent = this.paused && this.newest ? `Paused at ${clock(this.newest.time)}` : "Pause";
    if (!this.paused) this.show();
  }
}

// As the system has it, unless one has chosen.
function theme(chosen, plots) {
  const now = chosen ?? stored() ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = now;
  $("theme").textContent = now === "dark" ? "Light" : "Dark";
  if (chosen) store(chosen);
  plots?.repaint();
}

function stored() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

function store(chosen) {
  try {
    localStorage.setItem("theme", chosen);
  } catch {
    // A browser may keep nothing: the choice then lasts as long as the page.
  }
}

theme();
const page = new Page();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(undefined, page.plots));
new Stream({ hello: (one) => page.hello(one), second: (one) => page.second(one), lost: (why) => page.lost(why) });
