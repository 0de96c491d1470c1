import type { TaskRequest } from "../../contract/tasks.ts";
import type { Handlers } from "../handlers.ts";

export const taskHandlers = {
  submitTask: ({ services, request, seed }) =>
    services.tasks.submit(request.caller, request.body as unknown as TaskRequest, seed),
  getTask: ({ services, request }) => services.tasks.get(request.caller, request.params["id"] ?? ""),
} satisfies Partial<Handlers>;
