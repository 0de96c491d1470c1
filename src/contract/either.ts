// A value that is one of some texts: schema, and type, from one list.
import { Type } from "typebox";

export const either = <const T extends string>(values: readonly T[], description?: string) =>
  Type.Unsafe<T>(
    Type.Union(
      values.map((value) => Type.Literal(value)),
      description === undefined ? {} : { description },
    ),
  );
