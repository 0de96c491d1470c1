import { encodeId, uuidBytes } from "../kit/ids.ts";

/** The tenant of an installation that has no other. */
export const DEFAULT_TENANT = encodeId("ten", uuidBytes("00000000-0000-7000-8000-000000000001"));
