import { AppError } from "../contract/errors.ts";
import type { Refusal } from "../contract/replay.ts";
import type { JsonObject } from "../kit/json.ts";

/** Why a replay or fork is not made; nothing was changed. */
export function refused(reason: Refusal, message: string, details: JsonObject = {}): AppError {
  return new AppError("REPLAY_REFUSED", message, { details: { reason, ...details } });
}
