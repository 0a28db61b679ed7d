// What was, over ten minutes or six hours. Drawn by uPlot, which is put in when Penstock is built; without it, nothing.

import { clock, count, duration, h, rate } from "./text.js";

const SECONDS_MAX = 600;
const MINUTES_MAX = 360;
const LABEL_MS = 10000;

const PLOTS = [
  {
    title: "Metrics a second",
    format: rate,
    series: (root) => [
      ...Object.keys(root.listeners).map((name) => ["listeners", name, "received", `in: ${name}`]),
      ...Object.keys(root.outputs).map((name) => ["outputs", name, "delivered", `out: ${name}`]),
    ],
  },
  {
    title: "Delay from socket to answer",
    format: duration,
    logarithmic: true,
    series: (root) => Object.keys(root.outputs).flatMap((name) => [["outputs", name, "p50", `p50 ${name}`], ["outputs", name, "p99", `p99 ${name}`]]),
  },
  {
    title: "Metrics waiting, in rings and on disk",
    format: count,
    series: (root) => Object.keys(root.outputs).flatMap((name) => [["outputs", name, "waiting", `rings: ${name}`], ["outputs", name, "spooled", `disk: ${name}`]]),
  },
  {
    title: "Metrics lost a second",
    format: rate,
    series: (root) => [
      ...Object.keys(root.listeners).map((name) => ["listeners", name, "lost", `before rings: ${name}`]),
      ...Object.keys(root.outputs).map((name) => ["outputs", name, "lost", `after: ${name}`]),
    ],
  },
];

const SERIES_MAX = 8;

// One window of the past: times, and figures by place.
class Past {
  constructor(document, length) {
    this.length = length;
    this.time = [...document.time];
    this.listeners = document.listeners;
    this.outputs = document.outputs;
  }

  add(time, rates) {
    const before = this.time.length;
    this.time.push(time);
    for (const kind of ["listeners", "outputs"]) {
      for (const [name, figures] of Object.entries(rates[kind])) {
        const of = (this[kind][name] ??= {});
        for (const what of Object.keys(figures)) of[what] ??= new Array(before).fill(null);
      }
      for (const [name, kept] of Object.entries(this[kind])) {
        for (const [what, values] of Object.entries(kept)) values.push(rates[kind][name]?.[what] ?? null);
      }
    }
    if (this.time.length > this.length) this.shift();
  }

  shift() {
    this.time.shift();
    for (const kept of [...Object.values(this.listeners), ...Object.values(this.outputs)]) {
      for (const values of Object.values(kept)) values.shift();
    }
  }
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Plot {
  constructor(plan) {
    this.plan = plan;
    this.box = h("div.canvas", { role: "img", "aria-label": plan.title });
    this.element = h("figure", {}, h("figcaption", {}, plan.title), this.box);
    this.labelled = -Infinity;
    this.lines = "";
  }

  // Draw *past*; what has other lines than before, or *anew*, is made anew.
  show(past, anew) {
    const series = this.plan.series(past).slice(0, SERIES_MAX);
    const lines = JSON.stringify(series);
    const data = [past.time, ...series.map(([kind, name, what]) => this.values(past[kind][name][what] ?? []))];
    const width = this.element.clientWidth;
    if (!width) return;
    if (!this.plot || lines !== this.lines || anew) {
      this.plot?.destroy();
      this.lines = lines;
      this.plot = new window.uPlot(this.options(series, width), data, this.box);
    } else {
      if (width !== this.plot.width) this.plot.setSize({ width, height: this.plot.height });
      this.plot.setData(data);
    }
    // Where nobody points at, the legend has the latest values.
    if (!(this.plot.cursor.left >= 0)) this.plot.setLegend({ idx: past.time.length - 1 }, false);
    this.tell(series, data);
  }

  values(values) {
    return this.plan.logarithmic ? values.map((value) => (value > 0 ? value : null)) : values;
  }

  options(series, width) {
    const axis = { stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const { format, logarithmic } = this.plan;
    return {
      width,
      height: 190,
      padding: [null, 32, null, null], // the last time may be at the very end
      legend: { live: true },
      cursor: { drag: { setScale: false }, points: { size: 6 } },
      scales: { y: logarithmic ? { distr: 3, range: (_, low, high) => [10 ** Math.floor(Math.log10(low || 0.001)), 10 ** Math.ceil(Math.log10(high || 1))] } : { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
      axes: [
        { ...axis, values: (_, splits, __, ___, step) => splits.map((at) => clock(at).slice(0, step < 60 ? 8 : 5)), space: 80 },
        { ...axis, size: 80, values: (_, splits) => splits.map((value) => (value === null ? "" : format(value))) },
      ],
      series: [
        { label: "at", value: (_, at) => (at === null ? "–" : clock(at)) },
        ...series.map(([, , , name], index) => ({
          label: name.length > 40 ? `${name.slice(0, 40)}…` : name,
          stroke: color(`--plot-${index + 1}`),
          width: 1.5,
          dash: index % 2 ? [6, 3] : undefined,
          points: { show: false },
          value: (_, value) => (value === null || value === undefined ? "–" : format(value)),
        })),
      ],
    };
  }

  // The latest values, for who cannot see them.
  tell(series, data) {
    if (performance.now() - this.labelled < LABEL_MS) return;
    this.labelled = performance.now();
    const latest = series.map(([, , , name], index) => {
      const value = data[index + 1].at(-1);
      return `${name} ${value === null || value === undefined ? "nothing" : this.plan.format(value)}`;
    });
    this.box.setAttribute("aria-label", `${this.plan.title}: ${latest.join(", ")}`);
  }
}

export class Plots {
  constructor(section) {
    this.section = section;
    this.past = {};
    this.kept = "seconds";
    this.plots = PLOTS.map((plan) => new Plot(plan));
    section.querySelector("#plot-grid").append(...this.plots.map((plot) => plot.element));
    for (const span of ["seconds", "minutes"]) section.querySelector(`#span-${span}`).addEventListener("click", () => this.choose(span));
  }

  hello(hello) {
    this.past = { seconds: new Past(hello.seconds, SECONDS_MAX), minutes: new Past(hello.minutes, MINUTES_MAX) };
    this.sums = [];
    // The stream tells the last second of the past once more.
    this.last = this.past.seconds.time.at(-1) ?? 0;
    this.section.hidden = !window.uPlot;
  }

  add(root) {
    if (!root.rates || !this.past.seconds || root.time <= this.last) return;
    this.last = root.time;
    this.past.seconds.add(root.time, root.rates);
    this.sums.push(root.rates);
    if (this.sums.length === 60) {
      this.past.minutes.add(root.time, means(this.sums));
      this.sums = [];
    }
  }

  choose(span) {
    this.kept = span;
    for (const one of ["seconds", "minutes"]) this.section.querySelector(`#span-${one}`).setAttribute("aria-pressed", String(one === span));
    this.show(true);
  }

  show(anew = false) {
    if (!window.uPlot || !this.past[this.kept]) return;
    for (const plot of this.plots) plot.show(this.past[this.kept], anew);
  }

  repaint() {
    this.show(true);
  }
}

// Of a minute's rates, each figure's mean.
function means(rates) {
  const result = { listeners: {}, outputs: {} };
  for (const kind of ["listeners", "outputs"]) {
    for (const [name, figures] of Object.entries(rates.at(-1)[kind])) {
      result[kind][name] = Object.fromEntries(Object.keys(figures).map((what) => {
        const values = rates.map((one) => one[kind][name]?.[what]).filter((value) => typeof value === "number");
        return [what, values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null];
      }));
    }
  }
  return result;
}
