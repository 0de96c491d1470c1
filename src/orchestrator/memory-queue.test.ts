import { queueSuite } from "../../test/support/queue.suite.ts";
import { MemoryQueue } from "./memory-queue.ts";

queueSuite("in process", () => Promise.resolve(new MemoryQueue()));
