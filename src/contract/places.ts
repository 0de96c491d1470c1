// Places under a limit on how many calls of a tool or an agent run at a time, where several control nodes hand out jobs: each
// has some of the places, and all together never more than the limit.

/** Keeps who has how many places, for one node. */
export interface Places {
  /** Asks for more; others are told that there is need when there are none. Returns how many this node has. */
  ask(key: string, max: number): Promise<number>;
  /** Keeps so many, and gives the others back. */
  keep(key: string, granted: number): Promise<void>;
  /** Keys of which others need places that this node has. */
  wanted(): Promise<readonly string[]>;
}
