// The document of each second: from the stream, or, where something on the way holds that up, by asking again.
// A relay's has who sends to it beside it, as asked for now and then.

const SILENCE_MS = 5000;
const POLL_MS = 2000;
const SOURCES_MS = 5000;
const SOURCES_MAX = 100;

const ill = (source) => source.silent || source.missing > 0;

// No more than a page can show: those in trouble first.
const chosen = (sources) =>
  sources.sort((a, b) => ill(b) - ill(a) || (a.agent < b.agent ? -1 : 1)).slice(0, SOURCES_MAX);

export class Stream {
  // *hello* and *second* are called with documents, *lost* with a sentence while nothing comes.
  constructor({ hello, second, lost }) {
    Object.assign(this, { hello, second, lost });
    this.heard = performance.now();
    this.sources = [];
    this.open();
    setInterval(() => this.look(), 1000);
  }

  open() {
    this.source?.close();
    this.source = new EventSource("/api/stream");
    this.source.addEventListener("hello", (event) => this.hello(JSON.parse(event.data)));
    this.source.addEventListener("second", (event) => {
      this.heard = performance.now();
      this.polls = false;
      const { id, time, status, rates, fleet } = JSON.parse(event.data);
      if (fleet) this.askSources();
      this.second({ ...status, id, time, rates, fleet, sources: fleet ? this.sources : [] });
    });
  }

  async askSources() {
    if (performance.now() < this.askAt) return;
    this.askAt = performance.now() + SOURCES_MS;
    try {
      const answer = await fetch("/api/fleet?rings=0", { cache: "no-store" });
      if (answer.ok) this.sources = chosen((await answer.json()).sources);
    } catch {
      // They grow old, and each says when it was last seen.
    }
  }

  // Once a second: if nothing comes, ask. A stream that breaks comes back by itself; one that is refused does not.
  look() {
    if (performance.now() - this.heard < SILENCE_MS || this.asking) return;
    this.asking = true;
    this.ask().finally(() => setTimeout(() => (this.asking = false), POLL_MS - 1000));
  }

  async ask() {
    try {
      const answer = await fetch("/api/status", { cache: "no-store" });
      if (!answer.ok) throw new Error(`the agent answers ${answer.status}`);
      const status = await answer.json();
      if (performance.now() - this.heard < SILENCE_MS) return;
      this.second({ ...status, time: Date.now() / 1000, polled: true });
    } catch (error) {
      this.lost(error.message);
    }
    if (this.source.readyState === EventSource.CLOSED) this.open();
  }
}
