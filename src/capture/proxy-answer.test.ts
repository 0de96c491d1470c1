// Answers of recorded calls: what others have told us of theirs is no reason to answer with what HTTP does not allow.
import { expect, test } from "vitest";
import { openaiChat } from "../contract/wire/openai-chat.ts";
import type { JsonObject } from "../kit/json.ts";
import { Stop } from "../kit/stop.ts";
import { FakeClock } from "../../test/support/fake-clock.ts";
import { NO_ANSWER, recordedAnswer } from "./proxy-answer.ts";
import type { ProxyAnswer } from "./proxy-answer.ts";

const blobs = { get: () => Promise.reject(new Error("nothing is apart")) };

function answer(ended: string, completed: JsonObject, gone = new Stop()): Promise<ProxyAnswer> {
  const asking = { api: openaiChat, caller: { tenant_id: "ten_x" }, gone };
  return recordedAnswer({ blobs, clock: new FakeClock() }, asking, { ended, completed });
}

test("status and headers are given again as far as HTTP allows, and clients read them", async () => {
  const told = { "retry-after": "7", "x-request-id": "a\r\nset-cookie: b", "set-cookie": "c" };
  expect(await answer("model.failed", { status: 429, headers: told, content_type: "text/plain", raw: "busy" })).toEqual(
    {
      status: 429,
      headers: { "content-type": "text/plain", "retry-after": "7" },
      body: "busy",
    },
  );
  for (const content_type of ["text/plain\r\nx: y", "", 7, null])
    expect((await answer("model.completed", { status: 200, content_type, raw: "{}" })).headers).toEqual({
      "content-type": "application/json",
    });
  for (const status of [0, 101, 1_000, 200.5, "200", null])
    expect((await answer("model.completed", { status, raw: "{}" })).status).toBe(200);
});

test("a refusal whose bytes were not kept is one in the provider's form", async () => {
  const { status, body } = await answer("model.failed", { code: "http_503", message: "busy" });
  expect([status, JSON.parse(String(body))]).toEqual([503, { error: expect.objectContaining({ message: "busy" }) }]);
});

test("who had no answer gets none again, and who did not wait is left to give up", async () => {
  const none = { status: NO_ANSWER, headers: {}, body: "" };
  expect(await answer("model.failed", { code: "TypeError", message: "fetch failed" })).toEqual(none);
  const gone = new Stop();
  let answered = false;
  const left = answer("model.failed", { broken_by: "client", code: "AbortError" }, gone).then((given) => {
    answered = true;
    return given;
  });
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(answered).toBe(false);
  gone.abort();
  expect(await left).toEqual(none);
});
