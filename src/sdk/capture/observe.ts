// Looks at a stream while it is passed on, chunk by chunk, and is told once how it ended.

export interface Observer<T> {
  chunk(chunk: T): void;
  /** `failure`: it broke, or its reader went away before its end; `by` tells which. */
  ended(failure?: Error, by?: BrokenBy): void;
}

/** Who ended an answer before it was whole: the program, or whoever gave it. */
export type BrokenBy = "client" | "provider";

export function observeStream<T>(stream: ReadableStream<T>, observer: Observer<T>): ReadableStream<T> {
  const reader = stream.getReader();
  return new ReadableStream<T>({
    async pull(controller) {
      let next: Awaited<ReturnType<typeof reader.read>>;
      try {
        next = await reader.read();
      } catch (error) {
        observer.ended(error instanceof Error ? error : new Error(String(error)), "provider");
        return controller.error(error);
      }
      if (next.done) {
        observer.ended();
        return controller.close();
      }
      observer.chunk(next.value);
      controller.enqueue(next.value);
    },
    async cancel(reason) {
      observer.ended(new Error("the program stopped reading"), "client");
      await reader.cancel(reason);
    },
  });
}
