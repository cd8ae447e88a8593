// Reads an AsyncAPI document from standard input; prints every error and warning, and exits with 1 when there is an error.
const { readFileSync } = require("node:fs");
const { Parser } = require("@asyncapi/parser");

const ERROR = 0;
const WARNING = 1;

new Parser().parse(readFileSync(0, "utf8")).then(({ diagnostics }) => {
  for (const { severity, message, path } of diagnostics.filter((found) => found.severity <= WARNING)) {
    console.log(`${severity === ERROR ? "error" : "warning"} ${path.join("/")}: ${message}`);
  }
  process.exitCode = diagnostics.some((found) => found.severity === ERROR) ? 1 : 0;
});
