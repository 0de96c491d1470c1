import { MemoryJournalStore } from "./memory-store.ts";
import { journalStoreSuite } from "./store.suite.ts";

journalStoreSuite("memory", async () => ({ store: new MemoryJournalStore(), close: async () => undefined }));
