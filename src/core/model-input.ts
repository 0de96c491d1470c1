// What a model call of a run says: the conversation of an agent, or the prompt of a workflow's node.
import type { Message } from "../contract/jobs.ts";
import type { RunState, WorkflowState } from "./run-state.ts";
import { resolveTemplate } from "./template.ts";
import type { TemplateScope } from "./template.ts";

/** What references in a workflow may look at. */
export function scopeOf(run: RunState, workflow: WorkflowState): TemplateScope {
  return {
    input: run.input,
    output: (id) => {
      const index = workflow.spec.nodes.findIndex((node) => node.id === id);
      return index < 0 ? undefined : workflow.outputs[index];
    },
  };
}

/** Messages of the next model call of a step: an agent's conversation, or a workflow node's prompt. */
export function modelMessages(run: RunState, slot: number): Message[] {
  const { program } = run;
  if (program?.kind === "agent") return program.messages;
  if (program?.kind !== "workflow") return [];
  const prompt = program.spec.nodes[slot]?.prompt ?? "";
  const text = resolveTemplate(prompt, scopeOf(run, program));
  return [{ role: "user", content: typeof text === "string" ? text : JSON.stringify(text) }];
}
