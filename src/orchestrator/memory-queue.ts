// The queue of one process. Lanes are one per needs, priority and tenant; within a priority the lane that was served
// longest ago comes first.
import { serves } from "../contract/queue.ts";
import type { Delivery, LaneDepth, Queue, Ticket } from "../contract/queue.ts";

interface Lane {
  readonly tenant_id: string;
  readonly priority: number;
  readonly needs: readonly string[];
  tickets: Ticket[];
  /** Tickets before this place are taken; the list is cut now and then. */
  head: number;
}

const CUT_AFTER = 1_000;

export class MemoryQueue implements Queue {
  readonly problem = null;
  /** In the order in which they are to be served within their priority. */
  private lanes: Lane[] = [];
  private readonly byKey = new Map<string, Lane>();

  async push(tickets: readonly Ticket[]): Promise<void> {
    for (const ticket of tickets) {
      const { tenant_id, priority, needs } = ticket;
      const key = `${priority}/${tenant_id}/${needs.join(",")}`;
      let lane = this.byKey.get(key);
      if (!lane) {
        lane = { tenant_id, priority, needs, tickets: [], head: 0 };
        this.byKey.set(key, lane);
        this.lanes.push(lane);
      }
      lane.tickets.push(ticket);
    }
  }

  async take(labels: readonly string[], max: number): Promise<Delivery[]> {
    const taken: Delivery[] = [];
    for (let priority = 9; priority >= 0 && taken.length < max; priority--) {
      const fit = this.lanes.filter((lane) => lane.priority === priority && serves(labels, lane.needs));
      for (let served = true; served && taken.length < max;) {
        served = false;
        for (const lane of fit) {
          const ticket = taken.length < max ? lane.tickets[lane.head] : undefined;
          if (!ticket) continue;
          taken.push({ ticket, receipt: "" });
          served = true;
          this.advance(lane);
        }
      }
    }
    return taken;
  }

  /** A served lane goes to the end; an empty one is forgotten. */
  private advance(lane: Lane): void {
    lane.head += 1;
    if (lane.head > CUT_AFTER) {
      lane.tickets = lane.tickets.slice(lane.head);
      lane.head = 0;
    }
    this.lanes = this.lanes.filter((other) => other !== lane);
    if (lane.head < lane.tickets.length) this.lanes.push(lane);
    else this.byKey.delete(`${lane.priority}/${lane.tenant_id}/${lane.needs.join(",")}`);
  }

  async confirm(): Promise<void> {
    // Taken is gone: there is nobody else who could take it again.
  }

  async depth(): Promise<readonly LaneDepth[]> {
    return this.lanes.map(({ tenant_id, priority, needs, tickets, head }) => ({
      tenant_id,
      priority,
      needs,
      waiting: tickets.length - head,
    }));
  }

  async close(): Promise<void> {
    this.lanes = [];
    this.byKey.clear();
  }
}
