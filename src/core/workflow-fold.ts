// How a workflow's graph advances: counters of missing inputs, so a finished node costs only its dependents.
import type { Json } from "../kit/json.ts";
import type { WorkflowSpec } from "../contract/catalog.ts";
import { present } from "../kit/assert.ts";
import type { WorkflowState } from "./run-state.ts";

export function initial(spec: WorkflowSpec): WorkflowState {
  const missing = spec.nodes.map((node) => node.needs.length);
  return {
    kind: "workflow",
    spec,
    status: spec.nodes.map(() => "pending"),
    missing,
    outputs: spec.nodes.map(() => undefined),
    ready: missing.flatMap((count, index) => (count === 0 ? [index] : [])),
    open: 0,
    finished: 0,
    failure: null,
  };
}

/** A step was opened for a node. */
export function take(workflow: WorkflowState, node: number): number {
  workflow.status[node] = "open";
  workflow.open += 1;
  const at = workflow.ready.indexOf(node);
  if (at >= 0) workflow.ready.splice(at, 1);
  return node;
}

function release(workflow: WorkflowState, node: number): void {
  workflow.open -= 1;
  workflow.finished += 1;
  for (const next of workflow.spec.dependents[node] ?? []) {
    const left = (workflow.missing[next] ?? 0) - 1;
    workflow.missing[next] = left;
    if (left === 0) workflow.ready.push(next);
  }
}

export function done(workflow: WorkflowState, node: number, output: Json): void {
  workflow.status[node] = "done";
  workflow.outputs[node] = output;
  release(workflow, node);
}

export function failed(workflow: WorkflowState, node: number, code: string, message: string): void {
  const spec = present(workflow.spec.nodes[node], "a failed node is part of the workflow");
  workflow.status[node] = "failed";
  if (spec.on_error === "continue") {
    workflow.outputs[node] = null;
    return release(workflow, node);
  }
  workflow.open -= 1;
  workflow.failure ??= { node: spec.id, code, message };
}
