import { needsOf } from "../contract/jobs.ts";
import type { JobQueue } from "../contract/jobs.ts";

/** Jobs that need labels, or all where there is no pool in this process, go to remote workers. */
export function routeJobs(local: JobQueue | null, remote: JobQueue): JobQueue {
  return {
    dispatch: (jobs, priority) => {
      const here = local ? jobs.filter((job) => needsOf(job).length === 0) : [];
      const there = here.length === jobs.length ? [] : local ? jobs.filter((job) => needsOf(job).length > 0) : jobs;
      if (here.length > 0) local?.dispatch(here, priority);
      if (there.length > 0) remote.dispatch(there, priority);
    },
    abort: (run_id) => {
      local?.abort(run_id);
      remote.abort(run_id);
    },
  };
}
