// quarterdeck/capture: what programs import.
export { Capture, startCapture } from "./capture.ts";
export type { RunOptions } from "./capture.ts";
export { CaptureRun } from "./run.ts";
export type { OpenCall, RetrievalRequest } from "./run.ts";
export { CaptureUnavailable } from "./recorder.ts";
export type { RecorderFigures } from "./recorder.ts";
export type { AiSdkMiddleware } from "./ai-sdk.ts";
export type { CaptureOptions } from "./settings.ts";
