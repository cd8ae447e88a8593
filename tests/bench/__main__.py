"""`python -m tests.bench [NAME ...] [--small] [--tries N] [--out FILE]`."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final

import typer

from shared import logs
from tests.bench import appends, codecs, endurance, growth, rebuilds, report, running, streams, web
from tests.bench.beside import states
from tests.bench.measure import Effort, Outcome
from tests.bench.place import Place

BENCHES: Final[Mapping[str, Callable[[Place, Effort], Awaitable[Outcome]]]] = {
    "append-new1": appends.append_new1,
    "append-new10": appends.append_new10,
    "append-callers": appends.append_callers,
    "hot-stream": appends.hot_stream,
    "command-20": appends.command_20,
    "http-command": web.http_command,
    "relay-drain": streams.relay_drain,
    "project-live": streams.project_live,
    "e2e": running.e2e,
    "rebuild": rebuilds.rebuild,
    "rebuild-beside": rebuilds.rebuild_beside,
    "highest-load": endurance.highest_load,
    "growth": growth.growth,
    "soak": endurance.soak,
    "codec": codecs.codec,
    "idle": running.idle,
}
LATEST: Final = Path(__file__).parent / "results" / "latest.json"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Which benches; all when none is named: " + ", ".join(BENCHES))] = None,
    small: Annotated[bool, typer.Option(help="Everything once and short: counts are asserted, speed is not judged")] = False,
    half_floors: Annotated[
        bool, typer.Option(help="A small bench that misses half a floor is run again, three times at most; then the run fails")
    ] = False,
    events: Annotated[int, typer.Option(min=1, help="The largest size of rebuild, growth and soak")] = 10_000_000,
    tries: Annotated[int, typer.Option(min=1, help="How often a figure is taken before it is refused as too noisy")] = 3,
    out: Annotated[Path | None, typer.Option(help="Where the JSON goes; results/latest.json, and nowhere for a small run")] = None,
) -> None:
    """Measures, prints a table, and writes the JSON of it. What a bench asserts and does not find ends the run with an error."""
    chosen = names or list(BENCHES)
    unknown = [each for each in chosen if each not in BENCHES]
    if unknown:
        typer.echo(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}", err=True)
        raise typer.Exit(2)
    file = out or (None if small else LATEST)
    if half_floors and not small:
        typer.echo("--half-floors is for --small: a full run reports what each goal reached", err=True)
        raise typer.Exit(2)
    missed = asyncio.run(_run(chosen, Effort(small, tries, events_max=events), file, tries if half_floors else 0))
    for each in missed:
        typer.echo(f"below half the floor: {each}", err=True)
    if missed:
        raise typer.Exit(1)


async def _run(chosen: list[str], effort: Effort, file: Path | None, gate: int) -> list[str]:
    """Measures; which goals missed half their floor in each of `gate` tries."""
    run = asyncio.current_task()
    assert run is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, run.cancel)  # So that the servers' data goes in that case too.
    benches: dict[str, dict[str, Any]] = {}
    for name, state in states().items():
        typer.echo(f"peer {name}: {state}")
    place = Place(Path(tempfile.mkdtemp(prefix="leifeng-bench-")))
    missed: list[str] = []
    try:
        for name in chosen:
            below: list[str] = []
            for tried in range(max(gate, 1)):
                load, began = os.getloadavg()[0], perf_counter()
                outcome = await BENCHES[name](place, effort)
                benches[name] = report.bench_report(outcome, load, perf_counter() - began, small=effort.small)
                typer.echo(f"\n[load {load:.1f}, {perf_counter() - began:.0f} s]")
                for line in report.table(name, outcome):
                    typer.echo(line)
                below = report.below_half(benches[name]) if gate else []
                if not below:
                    break
                typer.echo(f"try {tried + 1}: below half the floor: " + "; ".join(below))
            missed += below
            if file is not None:  # After each, so that an interrupted run leaves what it has.
                report.write(file, benches)
    finally:
        place.close()
    goals = report.goals_report(benches) if file is None else report.write(file, benches)["goals"]
    typer.echo("")
    for line in report.goals_table(goals):
        typer.echo(line)
    return missed


if __name__ == "__main__":
    logs.configure("bench", "0", level="ERROR", out=sys.stderr)
    typer.run(main)
