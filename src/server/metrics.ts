// Figures of a process in the Prometheus text format. Counters and histograms are fed by hooks; gauges are read when asked.
import { Counter, Gauge, Histogram, Registry } from "prom-client";

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const ROWS = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000];

export class Metrics {
  private readonly registry = new Registry();
  private readonly requests: Counter;
  private readonly durations: Histogram;
  private readonly batches: Histogram;
  private readonly commits: Histogram;
  private readonly waits: Histogram;

  constructor(labels: Record<string, string>) {
    this.registry.setDefaultLabels(labels);
    const registers = [this.registry];
    this.requests = new Counter({
      name: "quarterdeck_http_requests_total",
      help: "Requests answered, by route and status.",
      labelNames: ["route", "status"],
      registers,
    });
    this.durations = new Histogram({
      name: "quarterdeck_http_request_seconds",
      help: "Time to answer, by route.",
      labelNames: ["route"],
      buckets: SECONDS,
      registers,
    });
    this.batches = new Histogram({
      name: "quarterdeck_append_batch_rows",
      help: "Appends in one commit of the journal.",
      buckets: ROWS,
      registers,
    });
    this.commits = new Histogram({
      name: "quarterdeck_append_commit_seconds",
      help: "Time from sending a commit of the journal to its answer.",
      buckets: SECONDS,
      registers,
    });
    this.waits = new Histogram({
      name: "quarterdeck_queue_wait_seconds",
      help: "Time a job waited before a remote worker got it.",
      buckets: SECONDS,
      registers,
    });
  }

  /** A figure that is read at each scrape; undefined where it cannot be known just then. */
  gauge(name: string, help: string, read: () => number | undefined): void {
    const gauge = new Gauge({
      name: `quarterdeck_${name}`,
      help,
      registers: [],
      collect() {
        const value = read();
        if (value === undefined) this.reset();
        else this.set(value);
      },
    });
    this.registry.registerMetric(gauge);
  }

  /** Figures of one kind, told apart by a label. */
  gauges(name: string, help: string, label: string, read: () => Readonly<Record<string, number>>): void {
    const gauge = new Gauge({
      name: `quarterdeck_${name}`,
      help,
      labelNames: [label],
      registers: [],
      collect() {
        this.reset();
        for (const [key, value] of Object.entries(read())) this.set({ [label]: key }, value);
      },
    });
    this.registry.registerMetric(gauge);
  }

  request(route: string, status: number, duration_ms: number): void {
    this.requests.inc({ route, status: String(status) });
    this.durations.observe({ route }, duration_ms / 1_000);
  }

  committed(rows: number, ms: number): void {
    this.batches.observe(rows);
    this.commits.observe(ms / 1_000);
  }

  waited(ms: number): void {
    this.waits.observe(ms / 1_000);
  }

  text(): Promise<string> {
    return this.registry.metrics();
  }
}
