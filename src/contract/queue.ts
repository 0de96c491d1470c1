// The queue port: how waiting jobs reach workers. A queue carries tickets (where a job is), never the truth: the owner of a
// run knows each job that waits or is out, so a queue may lose, delay or repeat tickets and nothing is lost or done twice.
// Two drivers, one suite (test/support/queue.suite.ts): in process, and Redis Streams.

/** Names one attempt of one step. */
export interface Ticket {
  readonly tenant_id: string;
  readonly run_id: string;
  readonly step: number;
  readonly attempt: number;
  /** 0 (last) to 9 (first). */
  readonly priority: number;
  /** Labels that a worker must have, sorted. */
  readonly needs: readonly string[];
}

/** A ticket that was taken and not yet confirmed. */
export interface Delivery {
  readonly ticket: Ticket;
  /** What the driver needs to confirm it. */
  readonly receipt: string;
}

/** Tickets waiting in one lane; tickets of a lane come in the order in which they were pushed. */
export interface LaneDepth {
  readonly tenant_id: string;
  readonly priority: number;
  readonly needs: readonly string[];
  readonly waiting: number;
}

/** Errors of a driver are AppErrors with DEPENDENCY_UNAVAILABLE; nothing is known then, and the call may be repeated. */
export interface Queue {
  push(tickets: readonly Ticket[]): Promise<void>;
  /**
   * Takes at most max tickets that a worker with these labels can do: higher priorities first, and within one priority the
   * tenants in turn, so a tenant with many tickets does not hold up one with few.
   */
  take(labels: readonly string[], max: number): Promise<Delivery[]>;
  /** The tickets have reached their worker, or are void. */
  confirm(deliveries: readonly Delivery[]): Promise<void>;
  depth(): Promise<readonly LaneDepth[]>;
  /** Why tickets cannot be pushed or taken just now; null while they can. */
  readonly problem: string | null;
  close(): Promise<void>;
}

/** Equal for two tickets of the same attempt. */
export function ticketKey(ticket: Pick<Ticket, "run_id" | "step" | "attempt">): string {
  return `${ticket.run_id}/${ticket.step}/${ticket.attempt}`;
}

/** Whether a worker with these labels may do a job that needs those. */
export function serves(labels: readonly string[], needs: readonly string[]): boolean {
  return needs.every((need) => labels.includes(need));
}
