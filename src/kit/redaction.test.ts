import { expect, test } from "vitest";
import type { Json } from "./json.ts";
import { redactJson, redactText, rulesOf } from "./redaction.ts";
import { iban, luhn } from "./redaction-rules.ts";
import { streamTexts } from "./stream-texts.ts";

// Put together here, so that no scanner takes this file for a leak.
const GITHUB = ["ghp", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].join("_");
const SLACK = ["xoxb", "23984754863", "2348975623112"].join("-");

test("inside arrays, nested objects, keys, JSON in strings and base64", () => {
  const nested = JSON.stringify({ config: [{ token: GITHUB }] });
  const value = {
    list: ["fine", { deep: `the token is ${GITHUB}.` }],
    [`key ${SLACK}`]: 1,
    json: nested,
    twice: JSON.stringify({ body: nested }),
    base64: Buffer.from(`token=${GITHUB} and more words`).toString("base64"),
    plain: "nothing here",
  };
  const { value: clean, rules, paths } = redactJson(value, rulesOf("secrets"));
  const text = JSON.stringify(clean);
  expect(text).not.toContain(GITHUB);
  expect(text).not.toContain(SLACK);
  expect(clean).toMatchObject({ list: ["fine", { deep: "the token is [redacted:github]." }], plain: "nothing here" });
  expect(JSON.parse((clean as { json: string }).json)).toEqual({ config: [{ token: "[redacted:github]" }] });
  expect((clean as { base64: string }).base64).toBe("[redacted:github]");
  expect(rules.toSorted()).toEqual(["github", "slack"]);
  expect(paths).toEqual(["/list/1/deep", "/key [redacted:slack]", "/json", "/twice", "/base64"]);
});

test("however deep it stands; what cannot be looked at as a whole is an error, so that it is not kept", () => {
  const rules = rulesOf("secrets");
  const hidden = {
    base64: Buffer.from(`token=${GITHUB} and more words`).toString("base64"),
    json: JSON.stringify({ 'a"b': `\n${GITHUB}\n` }),
  };
  const nested = (depth: number, value: Json): Json => (depth === 0 ? value : [nested(depth - 1, value)]);
  for (const depth of [1, 7, 8, 9, 63, 66]) {
    const { value: clean, paths } = redactJson(nested(depth, hidden), rules);
    expect(JSON.stringify(clean)).not.toContain(GITHUB);
    expect(JSON.stringify(clean)).not.toContain(hidden.base64);
    expect(paths).toHaveLength(2);
  }
  let layers = `token=${GITHUB} and more words`;
  for (let n = 0; n < 12; n++) layers = Buffer.from(layers).toString("base64");
  expect(() => redactJson(layers, rules)).toThrow("encodings in each other");
  expect(() => redactJson(nested(200, GITHUB), rules)).toThrow("nests deeper");
});

test("among many strings that hold nothing, the one that holds something is found, whatever stands beside it", () => {
  const rules = rulesOf("personal");
  for (const secret of [GITHUB, SLACK, "ada@example.org", "4111 1111 1111 1111"]) {
    for (const beside of ["word", "a_", "9", "-", "x@", "gh", ""]) {
      const value = { [beside]: beside, list: [...Array.from({ length: 50 }, () => beside), secret, beside] };
      const { value: clean, paths } = redactJson(value, rules);
      expect(JSON.stringify(clean)).not.toContain(secret);
      expect(paths).toEqual(["/list/50"]);
    }
  }
});

test("base64 is found wherever it stands in a text, and what only looks like it stays", () => {
  const hidden = Buffer.from(`a key: ${GITHUB}`).toString("base64");
  const picture = Buffer.from([0x89, 0x50, 0xff, 0xfe, ...Array.from({ length: 60 }, (_, i) => 200 + (i % 50))]);
  for (let before = 0; before < 100; before++) {
    const text = `${"ab ".repeat(before).slice(0, before)} ${hidden} ${"c".repeat(before % 45)}`;
    expect(JSON.stringify(redactJson({ text }).value), `${before}`).not.toContain(hidden);
    const plain = { text: text.replace(hidden, picture.toString("base64")), word: "w".repeat(before) };
    expect(redactJson(plain).value).toEqual(plain);
  }
});

// Rules that need a word are not tried where it is missing; it is there in any case that they know.
test.each([
  ["aws", "AWS_ACCOUNT_ID=1234-5678-9012"],
  ["aws", 'awsAccountId: "123456789012"'],
  ["aws", "account = 123456789012"],
  ["azure", `ARM_CLIENT_SECRET=${"aB3~".repeat(9)}`],
  ["azure", `azure_client_secret: "${"aB3~".repeat(9)}"`],
  ["database-connection-string", "POSTGRES://ada:s3cr3t-word@db.example/orders"],
  ["database-connection-string", "mongodb+srv://ada:s3cr3t-word@db.example"],
])("%s, however it is written: %s", (rule, text) => {
  expect(redactJson({ text }).rules).toEqual([rule]);
});

test("what stands there twice is taken out twice, and JSON in a string with and without escapes", () => {
  for (const secret of [GITHUB, SLACK, "ada@example.org", "4111 1111 1111 1111"])
    for (const inner of [{ a: [secret] }, { a: `\n${secret}`, [secret]: 1 }, [secret, "\\"], { a: { b: secret } }]) {
      const text = JSON.stringify(inner);
      const { value: clean, paths } = redactJson({ a: text, b: ["x", secret, text], c: secret }, rulesOf("personal"));
      expect(JSON.stringify(clean)).not.toContain(secret);
      expect(paths).toEqual(["/a", "/b/1", "/b/2", "/c"]);
    }
});

test("a key is looked at as a value is, also where the same text is both", () => {
  const hidden = [
    Buffer.from(`token=${GITHUB} and more words`).toString("base64"),
    JSON.stringify({ a: `\n${GITHUB}` }),
    JSON.stringify({ a: `\u0067${GITHUB.slice(1)}` }).replace("g", "\\u0067"),
  ];
  for (const text of hidden)
    for (const value of [{ [text]: 1 }, { [text]: text }, { a: text, b: { [text]: [text] } }]) {
      const { value: clean, rules, paths } = redactJson(value, rulesOf("secrets"));
      expect(rules).toEqual(["github"]);
      expect(paths.length).toBeGreaterThan(0);
      expect(JSON.stringify(clean)).not.toContain(JSON.stringify(text).slice(1, -1));
    }
});

test("keys that become the same one lose no value, and `__proto__` is a key like others", () => {
  const other = GITHUB.replace("wWPw", "wWPx");
  const text = `{"${GITHUB}":1,"${other}":2,"[redacted:github]":3,"__proto__":{"${SLACK}":4}}`;
  const { value: clean, paths } = redactJson(JSON.parse(text) as Json, rulesOf("secrets"));
  expect(JSON.stringify(clean)).toBe(
    `{"[redacted:github]'":1,"[redacted:github]''":2,"[redacted:github]":3,"__proto__":{"[redacted:slack]":4}}`,
  );
  expect(paths).toEqual(["/[redacted:github]'", "/[redacted:github]''", "/__proto__/[redacted:slack]"]);
});

test("a credential that stands in another one's", () => {
  const text = "Authorization: Bearer 0123456789abcdef.Authorization=Basic abcdefghijklmnop0123456789";
  expect(redactText(`${text} end`, rulesOf("secrets")).text).toBe(
    "Authorization: Bearer [redacted:bearer] [redacted:bearer] end",
  );
});

test("what holds no secret comes back byte for byte", () => {
  const value = {
    text: "A sentence, with an e-mail ada@example.com and a number 4111111111111111.",
    digest: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    json: '{ "spaced" :  [1, 2] }',
    base64: Buffer.from("just some plain words that are long enough to look at").toString("base64"),
  };
  const { value: clean, paths } = redactJson(value, rulesOf("secrets"));
  expect(clean).toEqual(value);
  expect(paths).toEqual([]);
});

test.each([
  ["4111 1111 1111 1111", "card"],
  ["DE89 3704 0044 0532 0130 00", "iban"],
  ["ada@example.com", "email"],
  ["+49 30 901820", "phone"],
])("personal data: %s", (text, rule) => {
  expect(redactText(`call ${text} now`, rulesOf("personal")).text).toBe(`call [redacted:${rule}] now`);
  expect(redactText(`call ${text} now`, rulesOf("secrets")).found).toEqual([]);
});

test.each([
  "4111 1111 1111 1112",
  "order 1234567890123456",
  "DE89 3704 0044 0532 0130 01",
  "v1.2.3",
  "2026-11-21 10:00",
])("no personal data: %s", (text) => expect(redactText(text, rulesOf("personal")).text).toBe(text));

test("check digits", () => {
  expect([luhn("79927398713"), luhn("79927398710")]).toEqual([true, false]);
  expect([iban("GB82WEST12345698765432"), iban("GB82WEST12345698765433")]).toEqual([true, false]);
});

test("finds that overlap go out together, and off means off", () => {
  const text = `https://user:${GITHUB}@example.com/x`;
  expect(redactText(text, rulesOf("secrets")).text).toBe("[redacted:basicauth]/x");
  expect(rulesOf("off")).toEqual([]);
});

test("a megabyte of text is looked at in little time: no rule runs away", () => {
  for (const text of [
    "a".repeat(1_000_000),
    "a@".repeat(300_000),
    "1 ".repeat(300_000),
    "{".repeat(10_000),
    "sk-".repeat(200_000),
  ]) {
    const begun = performance.now();
    redactJson({ text }, rulesOf("personal"));
    expect(performance.now() - begun).toBeLessThan(20_000);
  }
});

/** A stream of events, as a provider sends it. */
const streamOf = (events: readonly object[], between = "\n\n", name = ""): string =>
  events.map((event) => `${name}data: ${JSON.stringify(event)}${between}`).join("");
/** A text in pieces of four characters, as models say it. */
const pieces = (text: string): string[] => text.match(/.{1,4}/gs) ?? [];
const chat = (index: number, delta: object) => ({ id: "x", model: "m", choices: [{ index, delta }] });

test.each<[string, (text: string) => object[]]>([
  ["OpenAI's content", (text) => pieces(text).map((content) => chat(0, { content }))],
  ["its thoughts", (text) => pieces(text).map((reasoning_content) => chat(0, { reasoning_content }))],
  [
    "two choices in turns",
    (text) => pieces(text).flatMap((content) => [chat(0, { content: "word " }), chat(1, { content })]),
  ],
  [
    "arguments",
    (text) =>
      pieces(JSON.stringify({ token: text })).map((piece) =>
        chat(0, { tool_calls: [{ index: 1, function: { arguments: piece } }] }),
      ),
  ],
  [
    "Anthropic's thinking",
    (text) =>
      pieces(text).map((thinking) => ({
        type: "content_block_delta",
        index: 0,
        delta: { type: "thinking_delta", thinking },
      })),
  ],
  [
    "a summary of Responses",
    (text) =>
      pieces(text).map((delta) => ({
        type: "response.reasoning_summary_text.delta",
        item_id: "rs_1",
        summary_index: 0,
        delta,
      })),
  ],
  [
    "another API's parts",
    (text) => pieces(text).map((piece) => ({ candidates: [{ content: { parts: [{ text: piece }] } }] })),
  ],
])("a secret that a stream says in pieces is taken out of them: %s", (_name, say) => {
  const rules = rulesOf("secrets");
  for (const [between, name] of [
    ["\n\n", ""],
    ["\r\n\r\n", "event: delta\r\n"],
  ] as const) {
    const told = streamOf(say(`my token is ${GITHUB}, keep it`), between, name);
    const redacted = redactJson({ raw: told }, rules);
    expect(redacted).toMatchObject({ rules: ["github"], paths: ["/raw"] });
    const { raw } = redacted.value as { raw: string };
    // What its reader puts together is what the redacted text would have been in pieces, and nothing else has changed.
    const whole = (stream: string) => streamTexts(stream).map((text) => redactText(text, rules).text);
    expect(streamTexts(raw)).toEqual(whole(told));
    expect(streamTexts(raw).join(" ")).toContain("my token is [redacted:github], keep it");
    const [before, after] = [told.split(between), raw.split(between)];
    expect(after).toHaveLength(before.length);
    expect(after.filter((event, i) => event !== before[i]).length).toBeLessThanOrEqual(
      Math.ceil(GITHUB.length / 4) + 1,
    );
    expect(redactJson({ raw }, rules).paths).toEqual([]);
    // Also where another secret stands in one event.
    const both = streamOf([{ note: SLACK }], between, name) + told;
    const { value, rules: spoke } = redactJson({ raw: both }, rules);
    expect((value as { raw: string }).raw).toBe(streamOf([{ note: "[redacted:slack]" }], between, name) + raw);
    expect(spoke.toSorted()).toEqual(["github", "slack"]);
    const clean = streamOf(say("nothing to be found in what is said here, in many words"), between, name);
    expect(redactJson({ raw: clean }, rules)).toEqual({ value: { raw: clean }, rules: [], paths: [] });
  }
});

test("what stands in one event of a stream is taken out there", () => {
  const { value } = redactJson(streamOf([{ a: GITHUB }, { a: "x" }]), rulesOf("secrets"));
  expect(value).toBe(streamOf([{ a: "[redacted:github]" }, { a: "x" }]));
  const text = `data: my token is ${GITHUB.slice(0, 9)}\n\ndata: ${GITHUB.slice(9)}\n\n`;
  expect(redactJson(text, rulesOf("secrets")).value).toBe("[redacted:github]");
});

test("what a value is, its key may say alone; numbers are looked at as they are written", () => {
  const rules = rulesOf("personal");
  const secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLKEY";
  const value = {
    headers: { Authorization: "Bearer 0123456789abcdef0123", accept: "Bearer 0123456789abcdef0123" },
    env: { AWS_SECRET_ACCESS_KEY: secret, other: secret },
    card: 4111111111111111,
    cards: [5500005555555559, 4111111111111112, 7],
    account: { aws_account_id: 123456789012, count: 123456789012 },
  };
  const { value: clean, paths } = redactJson(value, rules);
  expect(clean).toEqual({
    headers: { Authorization: "Bearer [redacted:bearer]", accept: "Bearer 0123456789abcdef0123" },
    env: { AWS_SECRET_ACCESS_KEY: "[redacted:aws]", other: secret },
    card: "[redacted:card]",
    cards: ["[redacted:card]", 4111111111111112, 7],
    account: { aws_account_id: "[redacted:aws]", count: 123456789012 },
  });
  expect(paths).toHaveLength(5);
  for (const one of Object.keys(value))
    expect(redactJson({ [one]: value[one as keyof typeof value] }, rules).paths.length).toBeGreaterThan(0);
  // The same in what an agent's own JSON says, and with nothing to find it comes back as it was.
  expect(redactJson(JSON.stringify(value.headers), rules).paths).toEqual([""]);
  const plain = { a: 123456789012345, b: { Authorization: "Bearer x", key: 'a "quoted" one' } };
  expect(redactJson(plain, rules)).toEqual({ value: plain, rules: [], paths: [] });
});
