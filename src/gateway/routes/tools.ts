import type { Handlers } from "../handlers.ts";

export const toolHandlers = {
  reviewTool: ({ services, request }) => services.toolReviews.review(request.caller, request.params["name"] ?? ""),
  approveTool: ({ services, request }) => {
    const { digest } = request.body as { digest: string };
    return services.toolReviews.approve(request.caller, request.params["name"] ?? "", digest);
  },
} satisfies Partial<Handlers>;
