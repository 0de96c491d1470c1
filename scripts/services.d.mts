export type StartedRedis =
  | { missing: string; url?: undefined }
  | { missing?: undefined; url: string; port: number; pid: number; stop(): Promise<void> };
export type StartedPostgres =
  | { missing: string; url?: undefined }
  | {
      missing?: undefined;
      url: string;
      socket_dir: string;
      port: number;
      pid: number;
      version: string;
      stop(): Promise<void>;
    };
export function freePort(): Promise<number>;
export function startRedis(port?: number): Promise<StartedRedis>;
export function startPostgres(options?: { socketOnly?: boolean }): Promise<StartedPostgres>;
