// The architecture as a test: who may import whom, purity, sizes, banned calls, and words that must stay out.
import { readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

const ROOT = path.resolve(import.meta.dirname, "../..");

function files(folder: string): string[] {
  return readdirSync(path.join(ROOT, folder)).flatMap((name) => {
    const at = `${folder}/${name}`;
    if (statSync(path.join(ROOT, at)).isDirectory()) return files(at);
    return at.endsWith(".ts") ? [at] : [];
  });
}

const read = (file: string) => readFileSync(path.join(ROOT, file), "utf8");
const isTest = (file: string) => /\.(test|suite)\.ts$/.test(file);
const SOURCE = files("src").filter((file) => !isTest(file));

/** For each module, what it may import. This table is the law; ARCHITECTURE.md explains it. */
const MAY: Record<string, readonly string[]> = {
  kit: [],
  contract: ["kit"],
  core: ["kit", "contract"],
  journal: ["kit", "contract", "core"],
  store: ["kit", "contract", "core"],
  orchestrator: ["kit", "contract", "core", "journal", "store"],
  worker: ["kit", "contract", "core", "journal", "store"],
  mcp: ["kit", "contract", "core", "journal", "store"],
  capture: ["kit", "contract", "core", "journal", "store"],
  replay: ["kit", "contract", "core", "journal", "store"],
  gateway: ["kit", "contract", "core", "journal", "store", "orchestrator", "worker", "mcp", "capture", "replay"],
  adapters: ["kit", "contract"],
  server: [
    "kit",
    "contract",
    "core",
    "journal",
    "store",
    "orchestrator",
    "worker",
    "mcp",
    "capture",
    "replay",
    "gateway",
    "adapters",
    "sdk",
  ],
  sdk: ["kit", "contract"],
  cli: ["kit", "contract", "core", "journal", "sdk", "server", "adapters"],
};

const moduleOf = (file: string) => file.split("/")[1] ?? "";
const importsOf = (file: string) =>
  [...read(file).matchAll(/(?:from|import\() ?"([^"]+)"/g)].map((match) => match[1] ?? "");

test("modules import only what they may", () => {
  const wrong: string[] = [];
  for (const file of SOURCE) {
    const from = moduleOf(file);
    for (const target of importsOf(file).filter((name) => name.startsWith("."))) {
      const to = path.relative(ROOT, path.resolve(ROOT, path.dirname(file), target)).split("/")[1] ?? "";
      if (to !== from && !(MAY[from] ?? []).includes(to)) wrong.push(`${file} imports ${to}`);
      if (!target.endsWith(".ts")) wrong.push(`${file}: ${target} must end in .ts`);
    }
  }
  expect(wrong).toEqual([]);
});

test("outside libraries stay behind their doors", () => {
  const doors: Record<string, RegExp> = {
    pg: /^src\/adapters\/postgres\//,
    undici: /^src\/(adapters\/net|gateway\/forward|sdk\/worker-client)/,
    "@modelcontextprotocol": /^src\/mcp\//,
    fastify: /^src\/gateway\//,
    commander: /^src\/cli\//,
    ai: /^src\/worker\/model\.ts$/,
    "@ai-sdk": /^src\/worker\/model\.ts$/,
    "@marcbachmann": /^src\/core\/cel\.ts$/,
    croner: /^src\/core\/schedule\.ts$/,
    re2js: /^src\/core\/cel\.ts$/,
    yaml: /^src\/(orchestrator\/manifests|server\/config)\.ts$/,
  };
  const wrong = SOURCE.flatMap((file) =>
    importsOf(file).flatMap((name) => {
      const door = doors[name.split("/")[0] ?? ""];
      return door && !door.test(file) ? [`${file} imports ${name}`] : [];
    }),
  );
  // The demo resolves a path inside the file server's package; that is no import.
  expect(wrong).toEqual([]);
});

test("what programs load to capture themselves brings no library along", () => {
  const loaded = new Set<string>();
  const outside: string[] = [];
  const load = (file: string): void => {
    if (loaded.has(file)) return;
    loaded.add(file);
    for (const [, name = ""] of read(file).matchAll(/^(?:import|export) (?!type )[^;]*? from "([^"]+)"/gms)) {
      if (name.startsWith(".")) load(path.relative(ROOT, path.resolve(ROOT, path.dirname(file), name)));
      else if (!name.startsWith("node:")) outside.push(`${file} loads ${name}`);
    }
  };
  load("src/sdk/capture/index.ts");
  expect(loaded.size).toBeGreaterThan(15);
  expect(outside).toEqual([]);
});

test("kit, contract and core are pure", () => {
  const banned =
    /\b(Date\.now|new Date\(\)|Math\.random|setTimeout|setInterval|setImmediate|queueMicrotask|process\.|await fetch\(|randomUUID|randomBytes)\b|from "node:(?!crypto")/;
  const wrong = SOURCE.filter((file) => ["kit", "contract", "core"].includes(moduleOf(file))).filter((file) =>
    banned.test(read(file)),
  );
  expect(wrong).toEqual([]);
});

test("time, randomness and the environment are asked for only behind the seams", () => {
  const banned = /\b(Date\.now|Math\.random|setTimeout|setInterval|randomUUID|randomBytes)\(/;
  // capture lives in the processes of others: what it takes of them goes through its host.
  const behind = /^src\/(adapters\/|cli\/|sdk\/capture\/host\.ts)/;
  expect(SOURCE.filter((file) => !behind.test(file) && banned.test(read(file)))).toEqual([]);
  const env = SOURCE.filter(
    (file) => read(file).includes("process.env") && !/^src\/(server\/config|cli\/|sdk\/capture\/host\.ts)/.test(file),
  );
  expect(env).toEqual([]);
});

test("the rules about any, ignored errors, unfinished work and sizes hold", () => {
  const wrong: string[] = [];
  for (const file of [...SOURCE, ...files("src").filter(isTest), ...files("test")]) {
    const text = read(file);
    if (file.startsWith("test/tidy/")) continue;
    if (
      /(: any\b|as any\b|<any>|@ts-ignore|@ts-expect-error|oxlint-disable|eslint-disable|\.only\(|TODO|FIXME)/.test(
        text,
      )
    )
      wrong.push(`${file}: any, an ignored error, or unfinished work`);
    const lines = text.split("\n").length;
    if (lines > (isTest(file) || file.startsWith("test/") ? 800 : 500)) wrong.push(`${file}: ${lines} lines`);
    if (!isTest(file) && file.startsWith("src/") && lines > 100 && !/^(#!.*\n)?\/[/*]/.test(text))
      wrong.push(`${file}: a longer file opens with what it owns`);
  }
  expect(wrong).toEqual([]);
});

test("no error is recognised by its text", () => {
  expect(
    SOURCE.filter((file) => /\.message\.(includes|match|startsWith)|\.test\([a-z]+\.message\)/.test(read(file))),
  ).toEqual([]);
});
