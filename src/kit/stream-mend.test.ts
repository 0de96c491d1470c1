import fc from "fast-check";
import { expect, test } from "vitest";
import { mendStream } from "./stream-mend.ts";
import { streamTexts } from "./stream-texts.ts";

const event = (text: string, index = 0) =>
  `data: ${JSON.stringify({ choices: [{ index, delta: { content: text } }] })}\n\n`;
const said = (stream: string) => streamTexts(stream).filter((text) => text !== "");

test("any text in any pieces: what is cleaned is what is put together, the rest is as it was", () => {
  const word = fc.constantFrom("SECRET", "a", "b ", "SEC", "RET", "\n", '"', "é");
  fc.assert(
    fc.property(fc.array(word, { maxLength: 12 }), fc.array(fc.nat(5), { maxLength: 40 }), (words, cuts) => {
      const text = words.join("");
      const pieces: string[] = [];
      let at = 0;
      for (const cut of cuts) {
        pieces.push(text.slice(at, at + cut));
        at += cut;
      }
      pieces.push(text.slice(at));
      const stream = pieces.map((piece) => event(piece)).join("");
      const clean = (whole: string) => whole.replaceAll("SECRET", "[x]");
      const mended = mendStream(stream, clean) ?? "";
      expect(said(mended).join("")).toBe(clean(text));
      expect(mended.split("\n\n")).toHaveLength(pieces.length + 1);
      if (clean(text) === text) expect(mended).toBe(stream);
    }),
    { numRuns: 500 },
  );
});

test("only the events that said it change, byte for byte; two places are told apart", () => {
  const odd = 'data:  {"n": 1.0, "big": 12345678901234567890}\n\n';
  const stream = `: note\nevent: x\n${event("one SEC")}${odd}${event("SECRET", 1)}${event("RET two")}data: [DONE]\n\n`;
  const mended = mendStream(stream, (text) => text.replaceAll("SECRET", "[x]"));
  expect(mended).toBe(`: note\nevent: x\n${event("one [x]")}${odd}${event("[x]", 1)}${event(" two")}data: [DONE]\n\n`);
});

test("what is said in no object, or in several lines, cannot be taken out of its pieces", () => {
  const clean = (text: string) => text.replaceAll("SECRET", "");
  expect(mendStream("data: SEC\n\ndata: RET\n\n", clean)).toBeNull();
  expect(mendStream('data: {"a":\ndata: "SECRET"}\n\n', clean)).toBeNull();
  expect(mendStream(`${event("SECRET")}data: [DONE]\n\n`, clean)).toBe(`${event("")}data: [DONE]\n\n`);
});
