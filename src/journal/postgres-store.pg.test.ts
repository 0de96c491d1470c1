import { renameSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { withClient } from "../adapters/postgres/db.ts";
import { migrate } from "../adapters/postgres/setup.ts";
import { FileWitness, loadSigner } from "../adapters/files/keys.ts";
import { systemClock, systemRandom } from "../adapters/system/system.ts";
import { newId } from "../contract/ids.ts";
import { JOURNAL_LEVEL } from "../contract/journal.ts";
import { DbError } from "../contract/ports.ts";
import { testDatabase } from "../../test/support/postgres.ts";
import type { TestDatabase } from "../../test/support/postgres.ts";
import { remove, tempFolder } from "../../test/support/processes.ts";
import { bodyLines, encodeAppend } from "../core/chain.ts";
import { eventLeaf, sealText } from "../core/seal.ts";
import { merkleRoot } from "../kit/merkle.ts";
import { Turn } from "../kit/turn.ts";
import type { AppendRow } from "../contract/journal.ts";
import { verifyAll, verifyOne } from "./audit.ts";
import { Checkpointer } from "./checkpoint.ts";
import { PostgresJournalStore } from "./postgres-store.ts";
import { journalStoreSuite, rowsOf } from "./store.suite.ts";

journalStoreSuite("postgres", async () => {
  const database = await testDatabase();
  const store = new PostgresJournalStore(database.db);
  return {
    store,
    close: async () => {
      await store.close();
      await database.close();
    },
  };
});

/** Each row is a turn of its own. */
const turn = new Turn(systemClock, 0);

describe("the journal in Postgres", () => {
  const seams = { clock: systemClock, random: systemRandom };
  const tenant = newId("tenant", seams);
  let database: TestDatabase;
  let store: PostgresJournalStore;
  let folder: string;

  beforeAll(async () => {
    database = await testDatabase();
    store = new PostgresJournalStore(database.db);
    folder = tempFolder("qd-keys");
  });
  afterAll(async () => {
    await store.close();
    await database.close();
    remove(folder);
  });

  const write = async (lengths: readonly number[]) => {
    const lease = await store.acquireGroup(0, "w");
    const run_id = newId("run", seams);
    await store.flush(lease, {
      rows: rowsOf(tenant, run_id, lengths),
      runs: [],
      approvals: [],
      budgets: [],
      at_us: systemClock.now_us(),
    });
    return run_id;
  };
  const auditor = async () => {
    const signer = await loadSigner(folder);
    const witness = new FileWitness(`${folder}/witness.jsonl`);
    const checkpointer = new Checkpointer({ store, db: database.db, signer, witness, clock: systemClock, groups: 1 });
    return { checkpointer, verify: () => verifyAll({ store, db: database.db, signer, witness, groups: 1, turn }) };
  };
  /** As somebody with full rights over the database. */
  const tamper = (text: string) =>
    withClient(database.owner, async (tx) => {
      for (const trigger of ["journal_append_only", "journal_no_truncate"])
        await tx.query({ text: `alter table qd.journal disable trigger ${trigger}` });
      await tx.query({ text });
      for (const trigger of ["journal_append_only", "journal_no_truncate"])
        await tx.query({ text: `alter table qd.journal enable trigger ${trigger}` });
    });

  test("no role can change or delete an event, not even the owner", async () => {
    await write([2]);
    for (const role of ["qd_app", "qd_append", "qd_system"] as const) {
      for (const text of ["update qd.journal set last_seq = 9", "delete from qd.journal"]) {
        await expect(database.db.transaction({ role, tenant_id: tenant }, (tx) => tx.query({ text }))).rejects.toThrow(
          DbError,
        );
      }
    }
    for (const text of ["update qd.journal set last_seq = 9", "delete from qd.journal", "truncate qd.journal"]) {
      await expect(withClient(database.owner, (tx) => tx.query({ text }))).rejects.toThrow("append-only");
    }
  });

  test("without a tenant nothing is visible, and with one only its own", async () => {
    const run_id = await write([1]);
    const count = (scope: Parameters<typeof database.db.transaction>[0]) =>
      database.db.transaction(
        scope,
        async (tx) => (await tx.query<{ n: number }>({ text: "select count(*)::int as n from qd.journal" })).rows[0]?.n,
      );
    expect(await count({ role: "qd_app" })).toBe(0);
    expect(await count({ role: "qd_app", tenant_id: newId("tenant", seams) })).toBe(0);
    expect(await count({ role: "qd_app", tenant_id: tenant })).toBeGreaterThan(0);
    expect(await store.readRun(tenant, run_id, 1, 1)).toHaveLength(1);
  });

  test("every table with a tenant has row-level security enabled and forced, with a policy", async () => {
    const { rows } = await withClient(database.owner, (tx) =>
      tx.query<{ name: string; ok: boolean }>({
        text: `select c.relname as name, c.relrowsecurity and c.relforcerowsecurity and exists (select from pg_policy p where p.polrelid = c.oid) as ok
          from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
          where n.nspname = 'qd' and c.relkind in ('r', 'p') and not c.relispartition`,
      }),
    );
    expect(rows.length).toBeGreaterThan(6);
    expect(rows.filter((row) => !row.ok)).toEqual([]);
  });

  test("the row-per-event view shows each event with its seq", async () => {
    const run_id = await write([2, 3]);
    const rows = await store.readRun(tenant, run_id, 1, 10);
    const view = await database.db.transaction(
      { role: "qd_app", tenant_id: tenant },
      async (tx) =>
        (
          await tx.query<{ seq: number; body: string }>({
            text: "select seq, body from qd.events where off >= $1 order by off, seq",
            values: [rows[0]?.offset],
          })
        ).rows,
    );
    expect(view.map((row) => row.seq)).toEqual([1, 2, 3, 4, 5]);
    expect(view.map((row) => row.body)).toEqual(rows.flatMap((row) => row.body.toString().split("\n")));
  });

  test("a witness that fails once does not end the checkpoints: the next one goes on after what is there", async () => {
    const signer = await loadSigner(folder);
    const file = new FileWitness(`${folder}/witness.jsonl`);
    let fails = true;
    const record = (line: string) => (fails ? Promise.reject(new Error("ENOSPC")) : file.record(line));
    const witness = { record, lines: () => file.lines() };
    const checkpointer = new Checkpointer({ store, db: database.db, signer, witness, clock: systemClock, groups: 1 });
    await write([1]);
    await expect(checkpointer.tick()).rejects.toThrow("ENOSPC");
    fails = false;
    await write([1]);
    expect(await checkpointer.tick()).toBe(1);
    expect(await (await auditor()).verify()).toMatchObject({ faults: [] });
  });

  test("checkpoints cover what was written; a change, a cut or a rewrite by the database's owner is found", async () => {
    const run_id = await write([2, 2]);
    const { checkpointer, verify } = await auditor();
    expect(await checkpointer.tick()).toBe(1);
    expect((await verify()).faults).toEqual([]);
    await write([1]);
    expect(await checkpointer.tick()).toBe(1);
    renameSync(`${folder}/witness.jsonl`, `${folder}/elsewhere`);
    expect((await verify()).faults.join()).toMatch(/the witness has none of \d+ checkpoints/);
    renameSync(`${folder}/elsewhere`, `${folder}/witness.jsonl`);
    expect((await verify()).faults).toEqual([]);
    const [row] = await store.readRun(null, run_id, 1, 1);
    const body = row?.body.toString("hex");
    await tamper(
      `update qd.journal set body = overlay(body placing '\\x20'::bytea from 10) where off = ${row?.offset}`,
    );
    expect((await verify()).faults.join()).toContain(run_id);
    await tamper(`update qd.journal set body = '\\x${body}' where off = ${row?.offset}`);
    expect((await verify()).faults).toEqual([]);
    await tamper(`delete from qd.journal where off = (select max(off) from qd.journal)`);
    expect((await verify()).faults.length).toBeGreaterThan(0);
    await tamper(`update qd.groups set head = (select max(off) from qd.journal)`);
    expect((await verify()).faults.join()).toContain("checkpoint");
    await withClient(database.owner, (tx) =>
      tx.query({
        text: "alter table qd.checkpoints disable trigger checkpoints_append_only; delete from qd.checkpoints",
      }),
    );
    expect((await verify()).faults.join()).toContain("witness");
  });

  test("a seal that is not of the events before it, or is signed by somebody else, is found where its chain holds", async () => {
    const own = await testDatabase();
    const mine = new PostgresJournalStore(own.db);
    const keys = tempFolder("qd-keys-seals");
    const signer = await loadSigner(keys);
    const other = await loadSigner(`${keys}/other`);
    const options = {
      store: mine,
      db: own.db,
      signer,
      witness: new FileWitness(`${keys}/witness.jsonl`),
      groups: 1,
      turn,
    };
    let lease = await mine.acquireGroup(0, "w");
    /** A run of two events with a seal: of a root, by a key that is named, signed with one. */
    const seal = async (wrong: { root?: string; named?: string; by?: typeof signer }) => {
      const run_id = newId("run", seams);
      const place = { tenant_id: tenant, run_id };
      const [row] = rowsOf(tenant, run_id, [2]) as [AppendRow];
      const root = wrong.root ?? merkleRoot(bodyLines(row.body).map(eventLeaf)).toString("hex");
      const unsigned = { key_id: wrong.named ?? signer.key_id, last_seq: 2, root };
      const signature = (wrong.by ?? signer).sign(sealText(place, unsigned)).toString("hex");
      const drafts = [{ type: "run.sealed" as const, data: { ...unsigned, signature } }];
      const { body, chain } = encodeAppend({ drafts, seq: 2, chain: row.chain, at_us: 1_700_000_000_000_000 });
      const rows = [row, { ...place, first_seq: 3, last_seq: 3, body, chain }];
      await mine.flush(lease, { rows, runs: [], approvals: [], budgets: [], at_us: systemClock.now_us() });
      lease = { ...lease, head: lease.head + rows.length };
      return run_id;
    };
    await seal({});
    // Of a run that was imported.
    await seal({ named: other.key_id, by: other });
    expect((await verifyAll(options)).faults).toEqual([]);
    const rootless = await seal({ root: "0".repeat(64) });
    const forged = await seal({ by: other });
    expect((await verifyAll(options)).faults).toEqual([
      `${rootless} at seq 3: the root of the seal does not follow from the events`,
      `${forged} at seq 3: the seal is not signed with the key that it names`,
    ]);
    expect((await verifyOne(options, tenant, forged)).faults).toHaveLength(1);
    await mine.close();
    await own.close();
    remove(keys);
  });

  test("a round of checkpoints in whose middle the groups are taken over signs nothing twice", async () => {
    const own = await testDatabase();
    await withClient(own.owner, (tx) =>
      tx.query({ text: "insert into qd.groups (grp, shard_epoch, head, owner) values (1, 0, 0, ''), (2, 0, 0, '')" }),
    );
    const mine = new PostgresJournalStore(own.db);
    const keys = tempFolder("qd-keys-round");
    const signer = await loadSigner(keys);
    const file = new FileWitness(`${keys}/witness.jsonl`);
    let isTakenOver = false;
    const witness = {
      record: async (line: string) => {
        await file.record(line);
        if (isTakenOver) checkpointer.forget();
      },
      lines: () => file.lines(),
    };
    const options = { store: mine, db: own.db, signer, witness, groups: 3, turn };
    const checkpointer: Checkpointer = new Checkpointer({ ...options, clock: systemClock });
    const writeAll = async () => {
      for (const group of [0, 1, 2]) {
        const lease = await mine.acquireGroup(group, "w");
        const rows = rowsOf(tenant, newId("run", seams), [1]);
        await mine.flush(lease, { rows, runs: [], approvals: [], budgets: [], at_us: systemClock.now_us() });
      }
    };
    await writeAll();
    expect(await checkpointer.tick()).toBe(3);
    await writeAll();
    isTakenOver = true;
    expect(await checkpointer.tick()).toBe(3);
    isTakenOver = false;
    await writeAll();
    expect(await checkpointer.tick()).toBe(3);
    expect((await verifyAll(options)).faults).toEqual([]);
    await mine.close();
    await own.close();
    remove(keys);
  });

  test("migrating again, or twice at once, changes nothing", async () => {
    const done = await Promise.all([migrate(database.owner, "quarterdeck"), migrate(database.owner, "quarterdeck")]);
    expect(done).toEqual([[], []]);
  });

  test("a group that a newer program has written is not acquired by this one", async () => {
    const own = await testDatabase();
    const fresh = new PostgresJournalStore(own.db);
    const level = (value: number) =>
      withClient(own.owner, (tx) => tx.query({ text: "update qd.groups set journal_level = $1", values: [value] }));
    await level(JOURNAL_LEVEL + 1);
    await expect(fresh.acquireGroup(0, "me")).rejects.toThrow(`level ${JOURNAL_LEVEL + 1}; this one`);
    await level(JOURNAL_LEVEL - 1);
    expect((await fresh.acquireGroup(0, "me")).shard_epoch).toBe(1);
    await fresh.close();
    await own.close();
  });

  test("a connection that was cut is an unknown commit, and the writer finds out which", async () => {
    const own = await testDatabase();
    const { GroupWriter } = await import("./writer.ts");
    const fresh = new PostgresJournalStore(own.db);
    const lease = await fresh.acquireGroup(0, "w");
    const writer = new GroupWriter({
      store: fresh,
      clock: systemClock,
      lease,
      budgets: [],
      onFailure: () => undefined,
    });
    const ids: string[] = [];
    const appends: Promise<number>[] = [];
    for (let i = 0; i < 60; i++) {
      const run_id = newId("run", seams);
      ids.push(run_id);
      appends.push(
        writer.append({ row: rowsOf(tenant, run_id, [1])[0] as never, run: null, approvals: [], budgets: [] }),
      );
      if (i % 10 === 5) {
        await withClient(own.owner, (tx) =>
          tx.query({
            text: "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'quarterdeck' and datname = current_database()",
          }),
        );
      }
      await systemClock.sleep(2);
    }
    await Promise.all(appends);
    for (const id of ids) expect(await fresh.readRun(null, id, 1, 10)).toHaveLength(1);
    expect(new Set(await Promise.all(appends)).size).toBe(60);
    await fresh.close();
    await own.close();
  });
});
