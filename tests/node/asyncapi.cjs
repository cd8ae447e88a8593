// Reads AsyncAPI documents by name from standard input; prints every error and warning, and exits with 1 when there is any.
const { readFileSync } = require("node:fs");
const { Parser } = require("@asyncapi/parser");

const ERROR = 0;
const WARNING = 1;

(async () => {
  const parser = new Parser();
  for (const [name, document] of Object.entries(JSON.parse(readFileSync(0, "utf8")))) {
    const { diagnostics } = await parser.parse(JSON.stringify(document));
    for (const { severity, message, path } of diagnostics.filter((found) => found.severity <= WARNING)) {
      console.log(`${name}: ${severity === ERROR ? "error" : "warning"} ${path.join("/")}: ${message}`);
      process.exitCode = 1;
    }
  }
})();
