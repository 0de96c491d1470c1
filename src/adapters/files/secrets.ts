// Secrets by reference. What a manifest may name is bounded here, not by who wrote the manifest: environment variables
// with our prefix and the providers' well-known keys, and files of one folder.
import { readFile } from "node:fs/promises";
import path from "node:path";
import { AppError } from "../../contract/errors.ts";
import type { Secrets } from "../../contract/ports.ts";

const ENV_ALLOWED = /^(QD_SECRET_[A-Z0-9_]+|(OPENAI|ANTHROPIC|GOOGLE_GENERATIVE_AI|OPENAI_COMPATIBLE)_API_KEY)$/;
export const SECRET_REFERENCE = "^(env:[A-Z0-9_]+|file:[a-zA-Z0-9._-]+)$";

export class LocalSecrets implements Secrets {
  private readonly env: Readonly<Record<string, string | undefined>>;
  private readonly folder: string;

  constructor(options: { env: Readonly<Record<string, string | undefined>>; folder: string }) {
    this.env = options.env;
    this.folder = options.folder;
  }

  async resolve(reference: string): Promise<string> {
    const colon = reference.indexOf(":");
    const [scheme, name] = [reference.slice(0, colon), reference.slice(colon + 1)];
    const value = scheme === "env" ? this.fromEnv(name) : scheme === "file" ? await this.fromFile(name) : undefined;
    if (value === undefined || value === "") {
      throw new AppError("CONFIG_INVALID", `The secret ${reference} is not set`, { details: { reference } });
    }
    return value;
  }

  private fromEnv(name: string): string | undefined {
    if (!ENV_ALLOWED.test(name)) {
      throw new AppError("CONFIG_INVALID", `env:${name} may not be used as a secret; name it QD_SECRET_...`, {
        details: { name },
      });
    }
    return this.env[name];
  }

  private async fromFile(name: string): Promise<string | undefined> {
    if (path.basename(name) !== name || name.startsWith(".")) {
      throw new AppError("CONFIG_INVALID", `file:${name} must be the name of a file in ${this.folder}`, {
        details: { name },
      });
    }
    return (await readFile(path.join(this.folder, name), "utf8").catch(() => undefined))?.trim();
  }
}
