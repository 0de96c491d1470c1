// Writes what is generated and kept in the repository: openapi.json and docs/errors.md. Tests fail when they are stale.
import { writeFileSync } from "node:fs";
import { ERRORS } from "../src/contract/errors.ts";
import { openapiDocument } from "../src/gateway/openapi.ts";
import { VERSION } from "../src/server/version.ts";

writeFileSync("openapi.json", `${JSON.stringify(openapiDocument(VERSION), null, 2)}\n`);
const rows = Object.entries(ERRORS).map(
  ([code, row]) =>
    `| \`${code}\` | ${row.status} | ${row.exit} | ${row.retryable ? "yes" : "no"} | ${row.title}. ${row.remedy} |`,
);
const head = `# Errors

Generated from \`src/contract/errors.ts\` (\`npm run generate\`). HTTP answers are problem documents (RFC 9457) with \`code\`,
\`detail\`, \`remedy\`, \`request_id\` and \`retryable\`; the command line exits with the code in the third column.

| code | HTTP status | exit code | may succeed later | meaning and remedy |
|---|---|---|---|---|
`;
writeFileSync("docs/errors.md", `${head}${rows.join("\n")}\n`);
