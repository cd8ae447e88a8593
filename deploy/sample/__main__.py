"""`python -m deploy.sample load`: plays the sample year once. `make up` calls it; nobody else has to."""

import asyncio
import sys
import time
from datetime import date, datetime, timedelta
from pathlib import Path

from deploy.sample.player import Caller, Logs, Player, SampleError, place
from deploy.sample.tally import ZONE, compare
from deploy.sample.year import AUDITOR, Year


def main(arguments: list[str]) -> int:
    """Exit code: 0 the year stands and the figures agree, 1 they do not or it cannot be played, 2 asked for something else."""
    if arguments != ["load"]:
        print("usage: python -m deploy.sample load", file=sys.stderr)
        return 2
    try:
        asyncio.run(load())
    except SampleError as error:
        print(f"error: {error}", flush=True)
        return 1
    except BaseExceptionGroup as group:  # Several commands were under way when the first one failed.
        found = group.subgroup(SampleError)
        if found is None:
            raise
        print(f"error: {_first(found)}", flush=True)
        return 1
    return 0


async def load() -> None:
    """Plays what has not been played, compares, and lets the clocks go. Raises SampleError."""
    here = place()
    logs = Logs(here.databases)
    caller = Caller(here.ports, here.keys)
    try:
        if not await logs.travelling():
            if await logs.is_empty():
                raise SampleError("the logs are on the system clock: a year can only be played on logs made with the travelling clock")
            print("the sample year was played before", flush=True)
            return
        began = time.monotonic()
        player = Player(caller, logs)
        year = Year(player, _ends_on(here.state / "data" / "sample.ends-on"), lambda told: print(told, flush=True))
        await year.play()
        await logs.settle()
        tokens = list(player.tokens.values())
        figures = await compare(year.tally, lambda service, path: caller.rows(AUDITOR, service, path, tokens))
        await logs.arrive()
        print(
            f"played {year.starts_on} to {year.ends_on} in {time.monotonic() - began:.0f} s: "
            f"{caller.sent} commands at {year.instants} instants, {player.refusals} refused as they should be",
            flush=True,
        )
        print("counted apart and equal: " + ", ".join(f"{count} {what}" for what, count in figures.items()), flush=True)
    finally:
        caller.close()
        await logs.close()


def _ends_on(marker: Path) -> date:
    """Yesterday, as of the first time: a year that was interrupted goes on as the same year."""
    if not marker.exists():
        yesterday = datetime.now(ZONE).date() - timedelta(days=1)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{yesterday}\n", encoding="ascii")
    return date.fromisoformat(marker.read_text(encoding="ascii").strip())


def _first(group: BaseExceptionGroup[SampleError]) -> SampleError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
