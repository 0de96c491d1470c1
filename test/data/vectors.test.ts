// Conformance and attack vectors of others, run against our own parts.
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { checkedUrl, EgressNet } from "../../src/adapters/net/net.ts";
import { NetRefused } from "../../src/contract/ports.ts";
import { canonicalJson } from "../../src/kit/jcs.ts";
import { parseJson } from "../../src/kit/json.ts";
import { verifyInclusion } from "../../src/kit/merkle.ts";

const FOLDER = path.resolve(
  process.env["QUARTERDECK_SHARED_DATA"] ?? path.join(import.meta.dirname, "../../../shared/data"),
  "vectors",
);
const present = existsSync(FOLDER);
if (!present) console.warn(`SKIPPED: the vectors are not there (${FOLDER}); set QUARTERDECK_SHARED_DATA`);
const list = (folder: string): string[] =>
  readdirSync(path.join(FOLDER, folder)).flatMap((name) => {
    const at = `${folder}/${name}`;
    return statSync(path.join(FOLDER, at)).isDirectory() ? list(at) : [at];
  });
const read = (file: string) => readFileSync(path.join(FOLDER, file));

describe.skipIf(!present)("vectors", () => {
  test("RFC 8785: every input gives the expected bytes", () => {
    const inputs = list("jcs-rfc8785/input");
    expect(inputs.length).toBeGreaterThan(4);
    for (const file of inputs) {
      const expected = read(file.replace("/input/", "/output/")).toString().trimEnd();
      expect(canonicalJson(JSON.parse(read(file).toString())), file).toBe(expected);
    }
  });

  test("JSONTestSuite: what must be read is read, what must be refused is refused", () => {
    const files = list("json-test-suite/test_parsing");
    expect(files.length).toBeGreaterThan(200);
    // We are stricter on purpose: duplicate keys and NUL are read by some parsers in two ways.
    const stricter = new Set([
      "y_object_duplicated_key.json",
      "y_object_duplicated_key_and_value.json",
      "y_object_escaped_null_in_key.json",
      "y_string_null_escape.json",
    ]);
    for (const file of files) {
      const name = path.basename(file);
      const run = () => parseJson(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(read(file)));
      if (name.startsWith("n_") || stricter.has(name)) expect(run, name).toThrow();
      else if (name.startsWith("y_")) expect(run, name).not.toThrow();
      else {
        try {
          run();
        } catch (error) {
          expect(error, name).toBeInstanceOf(Error);
        }
      }
    }
  });

  test("RFC 6962 inclusion proofs: accepted and refused as the vectors say", () => {
    const files = list("merkle-proofs/inclusion").filter((file) => file.endsWith(".json"));
    expect(files.length).toBeGreaterThan(50);
    const bytes = (text: string | null) => Buffer.from(text ?? "", "base64");
    for (const file of files) {
      const v = JSON.parse(read(file).toString()) as {
        leafIdx: number;
        treeSize: number;
        root: string;
        leafHash: string;
        proof: string[] | null;
        wantErr: boolean;
      };
      const ok = verifyInclusion({
        leaf_hash: bytes(v.leafHash),
        index: v.leafIdx,
        size: v.treeSize,
        proof: (v.proof ?? []).map(bytes),
        root: bytes(v.root),
      });
      expect(ok, file).toBe(!v.wantErr);
    }
  });

  // Only the decision is tested: no request is ever sent to these addresses.
  test("SSRF: every literal address that must be blocked is refused before a connection, and public ones are not", () => {
    const cases = JSON.parse(read("ssrf/cases.json").toString()) as { url: string; expect: string; class: string }[];
    const policy = { private_origins: [], response_bytes_max: 1_000 };
    const verdict = (url: string): "refused" | "needs look-up" | "public" => {
      try {
        const host = checkedUrl(url, policy).url.hostname.replace(/^\[|\]$/g, "");
        return isIP(host) === 0 ? "needs look-up" : "public";
      } catch (error) {
        expect(error instanceof NetRefused || error instanceof TypeError).toBe(true);
        return "refused";
      }
    };
    const through = cases
      .filter((c) => c.expect === "block" && verdict(c.url) === "public")
      .map((c) => `${c.class} ${c.url}`);
    expect(through).toEqual([]);
    expect(cases.filter((c) => c.expect === "block" && verdict(c.url) === "refused").length).toBeGreaterThan(100);
    expect(cases.filter((c) => c.expect === "allow" && verdict(c.url) === "refused").map((c) => c.url)).toEqual([]);
  });

  test("SSRF: a name is refused when it resolves to a private address", async () => {
    const net = new EgressNet();
    const policy = { private_origins: [], response_bytes_max: 1_000 };
    await expect(net.fetch("http://localhost:1/", {}, policy)).rejects.toThrow(NetRefused);
  });
});
