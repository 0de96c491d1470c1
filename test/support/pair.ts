// Two control nodes over one Postgres database that is new, each on a data folder of its own.
import { startEmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import type { EmbeddedPostgres } from "../../src/adapters/embedded-postgres/supervisor.ts";
import { withClient } from "../../src/adapters/postgres/db.ts";
import { systemClock } from "../../src/adapters/system/system.ts";
import { LIMITS } from "../../src/contract/limits.ts";
import { cli, remove, startUp, tempFolder, until } from "./processes.ts";
import type { Running } from "./processes.ts";

export interface Shard {
  readonly group: number;
  readonly url: string;
}

export class Pair {
  first!: Running;
  second!: Running;
  private readonly cluster = tempFolder("qd-nodes");
  private shared = "";
  private databases = 0;
  private readonly postgres: EmbeddedPostgres;
  private readonly env: Record<string, string>;

  private constructor(postgres: EmbeddedPostgres, env: Record<string, string>) {
    this.postgres = postgres;
    this.env = env;
  }

  static async open(env: Record<string, string>): Promise<Pair> {
    const folder = tempFolder("qd-cluster");
    return new Pair(await startEmbeddedPostgres(folder, systemClock), env);
  }

  async close(): Promise<void> {
    await this.postgres.stop();
    remove(this.cluster);
  }

  /** The database as its owner reaches it. */
  get admin() {
    return { socket_dir: this.postgres.socket_dir, user: "postgres", database: `nodes${this.databases}` };
  }

  /** `bin`: of another version of the program. */
  node(env: Record<string, string> = {}, bin?: string): Promise<Running> {
    const socket = encodeURIComponent(this.postgres.socket_dir);
    const url = (user: string) => `postgresql://${user}@localhost/nodes${this.databases}?host=${socket}`;
    const all = {
      DATABASE_URL: url("serving"),
      DATABASE_ADMIN_URL: url("postgres"),
      QUARTERDECK_SHARED: this.shared,
      ...this.env,
      ...env,
    };
    return startUp(tempFolder("qd-node"), all, [], bin);
  }

  /** Two nodes on a new database; `keep`: with the keys and artifacts of the ones before. */
  async start(env: Record<string, string> = {}, keep = false): Promise<void> {
    if (!keep) this.shared = tempFolder("qd-shared");
    this.databases += 1;
    const { socket_dir } = this.postgres;
    await withClient({ socket_dir, user: "postgres", database: "postgres" }, (tx) =>
      tx.query({ text: `create database nodes${this.databases}` }),
    );
    this.first = await this.node(env);
    this.second = await this.node(env);
  }

  async end(): Promise<void> {
    for (const running of [this.first, this.second]) {
      running.child.kill("SIGCONT");
      await running.kill();
    }
  }

  async shards(at: Running): Promise<Shard[]> {
    return JSON.parse((await cli(["shards", "--url", at.url, "--json"])).out) as Shard[];
  }

  /** How many groups each of the two has, as one of them says. */
  async owned(at: Running): Promise<string> {
    const shards = await this.shards(at);
    return [this.first, this.second].map(({ url }) => shards.filter((shard) => shard.url === url).length).join();
  }

  /** Returns when each has half of the groups. */
  async evenly(): Promise<void> {
    const isEven = async () => (await this.owned(this.second)) === "4,4" && (await this.owned(this.first)) === "4,4";
    await until("the groups are shared", isEven, LIMITS.node_lease_ms * 3);
  }
}
