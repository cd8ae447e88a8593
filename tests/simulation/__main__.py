"""`python -m tests.simulation --seeds 100000 [--from N]` plays many seeds; `--seed N` plays one and tells what happened, call by call."""

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from time import monotonic

from tests.simulation.run import seldom, simulate


def main() -> int:
    """0 when every promise was kept, 1 when a seed has broken one, or what the seeds are for did not happen."""
    asked = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    asked.add_argument("--seeds", type=int, default=1_000, help="how many")
    asked.add_argument("--from", type=int, default=1, dest="first", help="the first one")
    asked.add_argument("--seed", type=int, help="this one alone, with a trace")
    given = asked.parse_args()
    if given.seed is not None:
        outcome = simulate(given.seed, print)
        print("\n".join([*sorted(f"{count:6} {name}" for name, count in outcome.happened.items()), *outcome.failures]))
        return 1 if outcome.failures else 0
    return _many(range(given.first, given.first + given.seeds))


def _many(seeds: range) -> int:
    happened, failed, events, began, told_at = Counter[str](), list[int](), 0, monotonic(), monotonic()
    with ProcessPoolExecutor() as pool:
        for outcome in pool.map(simulate, seeds, chunksize=10):
            happened.update(outcome.happened)
            events += outcome.events
            if outcome.failures:
                failed.append(outcome.seed)
                print(f"seed {outcome.seed}: {outcome.failures[0]}", flush=True)
            if monotonic() - told_at > 10.0 and sys.stdout.isatty():
                told_at = monotonic()
                print(f"{outcome.seed - seeds.start + 1:,} of {len(seeds):,} seeds", file=sys.stderr)
    seconds = monotonic() - began
    print("\n".join(f"{count:9,} {name}" for name, count in sorted(happened.items())))
    print(f"{len(seeds):,} seeds, {events:,} events in {seconds:.1f} s ({1000 * seconds / len(seeds):.1f} ms a seed); {len(failed)} failed")
    if failed:
        print(f"again, with a trace: python -m tests.simulation --seed {failed[0]}")
    if lacking := seldom(happened, len(seeds)):
        print(f"too seldom: {lacking}")
    return 1 if failed or lacking else 0


if __name__ == "__main__":
    sys.exit(main())
