// What every queue driver must do; run on the in-process and on the Redis driver.
import { afterEach, describe, expect, test } from "vitest";
import type { Delivery, Queue, Ticket } from "../../src/contract/queue.ts";

let n = 0;
const ticket = (over: Partial<Ticket> = {}): Ticket => ({
  tenant_id: "a",
  run_id: `run_${(n += 1)}`,
  step: 1,
  attempt: 1,
  priority: 5,
  needs: [],
  ...over,
});
const many = (count: number, over: Partial<Ticket> = {}) => Array.from({ length: count }, () => ticket(over));
const runs = (deliveries: readonly Delivery[]) => deliveries.map((delivery) => delivery.ticket.run_id);
const waiting = async (queue: Queue) => (await queue.depth()).reduce((sum, lane) => sum + lane.waiting, 0);

export function queueSuite(name: string, open: () => Promise<Queue>): void {
  describe(`queue: ${name}`, () => {
    const opened: Queue[] = [];
    const fresh = async () => {
      const queue = await open();
      opened.push(queue);
      return queue;
    };
    afterEach(async () => {
      for (const queue of opened.splice(0)) await queue.close();
    });

    test("gives each ticket once, as it was, in order", async () => {
      const queue = await fresh();
      const tickets = [ticket({ step: 7, attempt: 3 }), ...many(9)];
      await queue.push(tickets);
      const first = await queue.take([], 4);
      const rest = await queue.take([], 100);
      expect([...first, ...rest].map((delivery) => delivery.ticket)).toEqual(tickets);
      await queue.confirm([...first, ...rest]);
      expect(await queue.take([], 10)).toEqual([]);
      expect(await waiting(queue)).toBe(0);
    });

    test("higher priorities come first", async () => {
      const queue = await fresh();
      const [low, high, middle] = [ticket({ priority: 0 }), ticket({ priority: 9 }), ticket({ priority: 4 })];
      await queue.push([low, high, middle]);
      expect(runs(await queue.take([], 2))).toEqual([high.run_id, middle.run_id]);
      expect(runs(await queue.take([], 2))).toEqual([low.run_id]);
    });

    test("a worker gets what its labels serve, and nothing else", async () => {
      const queue = await fresh();
      const [plain, gpu, both] = [ticket(), ticket({ needs: ["gpu"] }), ticket({ needs: ["eu", "gpu"] })];
      await queue.push([plain, gpu, both]);
      expect(runs(await queue.take([], 10))).toEqual([plain.run_id]);
      expect(runs(await queue.take(["gpu"], 10))).toEqual([gpu.run_id]);
      expect(await queue.take(["eu"], 10)).toEqual([]);
      expect(runs(await queue.take(["gpu", "eu", "fast"], 10))).toEqual([both.run_id]);
    });

    test("a tenant with 10,000 tickets does not hold up another's single one", async () => {
      const queue = await fresh();
      await queue.push(many(10_000, { tenant_id: "large" }));
      await queue.take([], 10);
      const single = ticket({ tenant_id: "small" });
      await queue.push([single]);
      expect(runs(await queue.take([], 2))).toContain(single.run_id);
    });

    test("tenants are served in turn over many small takes", async () => {
      const queue = await fresh();
      for (const tenant_id of ["a", "b", "c"]) await queue.push(many(30, { tenant_id }));
      const counts = new Map<string, number>();
      for (let i = 0; i < 30; i++) {
        for (const { ticket: taken } of await queue.take([], 1)) {
          counts.set(taken.tenant_id, (counts.get(taken.tenant_id) ?? 0) + 1);
        }
      }
      expect([...counts.values()]).toEqual([10, 10, 10]);
    });

    test("depth counts what waits, lane by lane", async () => {
      const queue = await fresh();
      await queue.push([...many(3), ...many(2, { priority: 9, needs: ["gpu"] })]);
      await queue.confirm(await queue.take([], 1));
      const depth = [...(await queue.depth())].sort((a, b) => a.priority - b.priority);
      expect(depth).toEqual([
        { tenant_id: "a", priority: 5, needs: [], waiting: 2 },
        { tenant_id: "a", priority: 9, needs: ["gpu"], waiting: 2 },
      ]);
    });
  });
}
