// What the system says of a failed call: the names of errno(3), as Node puts them on its errors.

/** ENOENT, EEXIST, ENOSPC ...; "" for an error that has none. */
export function errnoOf(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
}

/** What the work gives, or `none` where the file is not there. What cannot be read is not what is not there: that throws. */
export async function ifThere<T, N>(work: Promise<T>, none: N): Promise<T | N> {
  try {
    return await work;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return none;
    throw error;
  }
}
