/** What ended a call that a recording has none of, in place of the type of an event: the program asks by itself. */
export const NOT_RECORDED = "none";
