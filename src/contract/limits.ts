/** Every limit of the program, in one place. Each is tested at n and at n + 1. Units are in the name. */
export const LIMITS = {
  /** Payloads above this are artifacts, referred to by digest. */
  inline_bytes_max: 8 * 1024,
  /** Bytes and events of one append (one row). */
  append_bytes_max: 8 * 1024 * 1024,
  append_events_max: 10_000,
  artifact_bytes_max: 64 * 1024 * 1024,
  /** Body of one HTTP request. */
  request_bytes_max: 4 * 1024 * 1024,
  json_depth_max: 64,
  manifest_bytes_max: 1024 * 1024,
  manifest_documents_max: 200,
  steps_per_run_max: 10_000,
  attempts_max: 10,
  workflow_steps_max: 1_000,
  model_turns_default: 25,
  model_turns_max: 200,
  tool_calls_per_turn_max: 64,
  structured_output_retries: 2,
  rules_per_policy_max: 500,
  expression_chars_max: 4_096,
  name_chars_max: 128,
  note_chars_max: 2_000,
  labels_max: 32,
  /** Body of one call through the proxy: images come inside it. */
  proxy_bytes_max: 32 * 1024 * 1024,
  /** How long a call through the MCP gateway waits for its outcome, unless it says otherwise; clients give up after 60 s. */
  mcp_wait_ms: 50_000,
  mcp_wait_ms_max: 600_000,
  /** Streams of MCP clients that listen for changes of tools, at one control node. */
  mcp_listeners_max: 1_024,
  /** The same for a model call that waits for approval; `fetch` of Node gives up after 300 s without headers. */
  proxy_wait_ms: 240_000,
  proxy_wait_ms_max: 3_600_000,
  /** A session or trace that nobody adds to for so long is a run that has ended. */
  capture_idle_ms: 15 * 60_000,
  /** The same for a captured run that somebody started by name, and forgot: its program may wait for a person. */
  capture_open_ms: 24 * 3_600_000,
  /** Observed events in one batch, and the size of one as it is stored. */
  ingest_events_max: 1_000,
  event_bytes_max: 64 * 1024,
  /** Events that came before the ones they follow: how many are kept for one producer, and for how long. */
  staged_events_max: 1_000,
  gap_wait_ms: 30_000,
  /** How often the owner of the runs looks for staged events that it has not heard of. */
  staged_look_ms: 10_000,
  /** How long events are kept whose run nobody has started. */
  unknown_run_wait_ms: 10 * 60_000,
  /** What was late may still be added to a run for so long after its end. */
  seal_after_ms: 15 * 60_000,
  /** How often a node looks for runs to seal, and how many it takes from the list at a time. */
  seal_look_ms: 60_000,
  seals_at_once_max: 100,
  /** A trace whose root has ended, and of which nothing more came for so long, is a run that has ended. */
  trace_quiet_ms: 30_000,
  otlp_bytes_max: 64 * 1024 * 1024,
  /** Runs that one back-test of a policy reads, and flips that it lists. */
  backtest_runs_max: 1_000,
  backtest_flips_max: 1_000,
  /** Payloads given to one replay or fork in place of outcomes. */
  simulations_max: 200,
  /** Recorded outcomes taken over in one append of a replay or fork; the rest follows in the next. */
  reuse_per_append_max: 100,
  page_size_default: 50,
  page_size_max: 200,
  events_page_max: 1_000,
  max_output_tokens_default: 4_096,
  tool_timeout_ms_default: 30_000,
  tool_timeout_ms_max: 3_600_000,
  model_timeout_ms_default: 120_000,
  /** Of results that were redacted for the record, kept in memory as they came for whoever waits for them. */
  raw_results_chars_max: 32 * 1024 * 1024,
  tool_result_bytes_max: 4 * 1024 * 1024,
  http_redirects_max: 3,
  approval_ttl_ms_default: 24 * 3_600_000,
  approval_ttl_ms_max: 30 * 24 * 3_600_000,
  run_deadline_ms_max: 30 * 24 * 3_600_000,
  /** How long in-flight calls may still report after a run was told to stop. */
  stop_grace_ms: 2_000,
  retry_base_ms: 200,
  retry_cap_ms: 30_000,
  /** A provider's Retry-After is honoured up to here. */
  retry_after_ms_max: 120_000,
  checkpoint_interval_ms: 10_000,
  checkpoint_leaves_max: 1_000_000,
  idempotency_ttl_ms: 24 * 3_600_000,
  idempotency_key_chars_max: 200,
  sse_clients_max: 1_000,
  /** Runs whose place of reading is kept, so that the next page costs only itself. */
  readers_kept_max: 2_000,
  /** Of one run: so many may read at different places, each for the cost of what is new to it. */
  readers_of_run_max: 64,
  open_runs_max: 100_000,
  /** A run that has waited for so long is read again when somebody, or its time, comes. */
  park_after_ms: 5_000,
  /** Jobs that wait for a remote worker; beyond it no run is started. */
  queue_depth_max: 100_000,
  /** A worker that is not heard of for so long has lost its jobs. */
  worker_lease_ms: 5_000,
  /** A control node that is not heard of for so long has lost its runs to another one. */
  node_lease_ms: 5_000,
  /** A migration may take long, and so may another node's; a network that went silent must not hold up a start for ever. */
  database_setup_ms: 600_000,
  /** A statement of a serving connection that is not answered for so long has lost its connection. */
  database_answer_ms: 20_000,
  /**
   * A transaction whose client says nothing for so long is ended by the database: a process that was frozen in the middle of
   * one must not hold up who takes over from it.
   */
  database_idle_ms: 10_000,
  /** How long a request waits for an owner while the runs change hands. */
  forward_wait_ms: 10_000,
  /** How long other nodes have for their part of an answer; without it the answer is what the others know. */
  gather_wait_ms: 2_000,
  worker_heartbeat_ms: 1_000,
  /** Jobs handed out, and results taken, in one request. */
  worker_batch_max: 256,
  worker_wait_ms_max: 20_000,
  /** What a task may cost, unless it or its intent says so; and at most, unless its intent does. */
  task_budget_micro_usd: 20_000,
  task_budget_cap_micro_usd: 200_000,
  /** How often triggers are looked at. */
  trigger_look_ms: 500,
  /** What a schedule was due for so long ago was missed; what is younger is only late. */
  schedule_late_ms: 60_000,
  /** A named reader of a run that says nothing for so long begins at the beginning again. */
  stream_acks_kept_ms: 30 * 24 * 3_600_000,
  /** Fires that are taken up in one go, and how long those that are done can be seen. */
  fires_at_once_max: 100,
  fires_kept_ms: 30 * 24 * 3_600_000,
  /** The body of a webhook, and how far its sender's clock may be off. */
  webhook_bytes_max: 1024 * 1024,
  webhook_skew_ms: 300_000,
  /** Appends of a group that are looked at in one go for events that start runs. */
  followed_rows_max: 1_000,
  /** A run that an event started may start another one, and so on: so far. */
  trigger_depth_max: 5,
  /** Of what one call says in one go while it runs; the rest is in its outcome. */
  progress_chars_max: 16_384,
} as const;
