"""Makes .venv and installs the locked requirements: `python3 deploy/local/install.py local` (what `make up` needs) or `test` (everything).

Runs on whatever Python 3 is there, before anything is installed: it must stay readable for old ones, so that they get a plain answer.
"""

import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
MEGABYTES = {"local": 90, "test": 190, "bench": 210}
REASONS = (  # What pip says, and what it means for a person.
    (r"No space left", "the disk is full: about 1 GB is needed"),
    (r"DO NOT MATCH THE HASHES", "a package is not the one that was locked (its hash differs): nothing was installed from it"),
    (
        r"NewConnectionError|NameResolutionError|ProxyError|(Connect|Read)Timeout|Connection (refused|broken|reset)|Network is unreachable",
        "no network: the first start fetches packages; behind a proxy set HTTPS_PROXY",
    ),
)


def main(what: str) -> int:
    """Install what `local` or `test` needs. Exit code 0, or 1 after one plain line."""
    if sys.version_info < (3, 11):
        return fail("Python 3.11 or newer is needed, this is %d.%d" % sys.version_info[:2])
    python = os.path.join(VENV, "bin", "python")
    if not os.path.exists(python):
        made = subprocess.run([sys.executable, "-m", "venv", VENV], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if made.returncode != 0:
            return fail("no virtual environment could be made in .venv (on Debian: apt-get install python3-venv)")
    lock = os.path.join(ROOT, "requirements-%s.lock" % what)
    with open(lock, encoding="ascii") as file:
        total = len(re.findall(r"^[a-z0-9]", file.read(), re.MULTILINE))
    print("installing %d locked packages, about %d MB the first time" % (total, MEGABYTES[what]), flush=True)
    return install(python, lock, total)


def install(python: str, lock: str, total: int) -> int:
    """Run pip, and show how far it is."""
    begin = time.time()
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--retries=2",
        "--require-hashes",
        "-r",
        lock,
    ]
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    said, found, shown = [], 0, 0.0
    assert pip.stdout is not None
    for line in pip.stdout:
        said.append(line)
        if re.match(r"Collecting|Installing collected", line):
            found += line.startswith("Collecting")
            if time.time() - shown > 2:
                shown = time.time()
                print("[%5.1fs] %d of %d: %s" % (shown - begin, found, total, " ".join(line.split()[:2])[:60]), flush=True)
    if pip.wait() == 0:
        print("[%5.1fs] installed" % (time.time() - begin), flush=True)
        return 0
    text = "".join(said)
    for pattern, meaning in REASONS:
        if re.search(pattern, text):
            return fail(meaning)
    errors = [line for line in said if line.startswith("ERROR")]
    return fail("pip failed: %s" % (errors or said or ["it said nothing"])[0].strip())


def fail(text: str) -> int:
    """Say one line."""
    print("error: " + text, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
