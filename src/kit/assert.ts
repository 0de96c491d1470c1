/** A broken invariant: a bug in this program, never a condition a caller can mend. Nothing catches it to carry on. */
export class InvariantError extends Error {
  override readonly name = "InvariantError";
  readonly details: Readonly<Record<string, unknown>>;

  constructor(message: string, details: Readonly<Record<string, unknown>> = {}) {
    super(message);
    this.details = details;
  }
}

/** Checks an invariant, in production too. */
export function assert(
  condition: unknown,
  message: string,
  details?: Readonly<Record<string, unknown>>,
): asserts condition {
  if (!condition) throw new InvariantError(message, details);
}

/** Marks a branch that the type system proves unreachable. */
export function unreachable(value: never): never {
  throw new InvariantError("unreachable branch", { value });
}

/** Returns the value, or fails where absence would be a bug. */
export function present<T>(value: T | null | undefined, message: string): T {
  assert(value !== null && value !== undefined, message);
  return value;
}
