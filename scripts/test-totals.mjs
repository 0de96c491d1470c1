// Adds up what the test runs wrote, prints the closing line, and fails when a test failed, was skipped, or none ran.
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";

const [folder, status] = process.argv.slice(2);
let passed = 0;
let failed = 0;
let skipped = 0;
for (const file of readdirSync(folder).filter((name) => name.endsWith(".json"))) {
  const result = JSON.parse(readFileSync(path.join(folder, file), "utf8"));
  passed += result.numPassedTests;
  failed += result.numFailedTests + (result.numFailedTestSuites > 0 && result.numFailedTests === 0 ? 1 : 0);
  skipped += result.numPendingTests + result.numTodoTests;
}
if (status !== "0" && failed === 0) failed = 1;
if (skipped > 0) console.log(`${skipped} tests were skipped; none may be`);
if (passed === 0) console.log("no test ran");
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || skipped > 0 || passed === 0 ? 1 : 0);
