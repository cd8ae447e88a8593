"""The results as one page that needs nothing: `python -m tests.bench.plots [JSON [HTML]]`. A run writes it beside its JSON."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

WIDTH: Final = 900
LABEL: Final = 330
ROW: Final = 20
_COLOURS: Final = ("#b5121b", "#1f5f8b", "#4b7f52", "#8a5a00", "#6b4c9a", "#555555")
_STYLE: Final = """
body { font: 14px/1.4 sans-serif; max-width: 960px; margin: 2em auto; color: #222 }
h2 { margin: 2em 0 0 } h3 { margin: 1.2em 0 .2em; font-size: 1em } p { margin: .2em 0; color: #666 }
svg { display: block } text { font: 12px sans-serif; fill: #222 } .dim { fill: #888 }
"""


def page(report: Mapping[str, Any]) -> str:
    """HTML with inline SVG: goals, then the figures of every bench, then what is a curve."""
    machine = report["machine"]
    where = [f"{machine['cpus']} cores", f"Python {machine['python']}", f"fdatasync {machine['fdatasync_us']} us"]
    where += [f"{name} {version}" for name, version in machine["packages"].items()]
    parts = [
        f"<p>{escape(', '.join(where))}</p>",
        *(f"<p>{escape(name)}: {escape(state)}</p>" for name, state in report["peers"].items()),
        "<h2>Goals</h2><p>From left to right floor, target, moonshot; the dot is what was measured, and further right is better.</p>",
        _goals(report["goals"]),
    ]
    for name, bench in report["benches"].items():
        parts.append(f"<h2>{escape(name)}</h2><p>{escape(_when(bench))}</p>")
        for figure in bench["figures"]:
            parts.append(f"<h3>{escape(figure['name'])}</h3>{_bars(figure)}")
            parts += [f"<p>{escape(label)}: {escape(why)}</p>" for label, why in figure.get("absent", {}).items()]
        parts += [f"<h3>{escape(title)}</h3>{_lines(lines, unit)}" for title, unit, lines in curves(name, bench["figures"])]
    head = f'<meta charset="utf-8"><title>Bench</title><style>{_STYLE}</style>'
    body = "\n".join(["<h1>Bench</h1>", *parts])
    return f'<!doctype html><html lang="en">{head}\n{body}\n</html>\n'


def _when(bench: Mapping[str, Any]) -> str:
    small = ", small: says nothing of speed" if bench["small"] else ""
    load = " and ".join(str(each) for each in bench["load_average"])
    return f"{bench['at']}, commit {bench['commit']}, {bench['seconds']} s, load {load}{small}"


def _svg(height: float, inside: Sequence[str]) -> str:
    return f'<svg width="{WIDTH}" height="{height:.0f}" role="img">{"".join(inside)}</svg>'


def _text(x: float, y: float, said: str, *, end: bool = False, dim: bool = False) -> str:
    more = (' text-anchor="end"' if end else "") + (' class="dim"' if dim else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(said)}</text>' if said else ""


def number(value: float) -> str:
    """Three digits, and no exponent where people read it."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _goals(goals: Mapping[str, Mapping[str, Any]]) -> str:
    """Floor, target and moonshot on a line that is logarithmic in how good something is; the dot is what was measured."""
    inside: list[str] = []
    begin, end = LABEL - 150, WIDTH - 240
    for row, (name, goal) in enumerate(goals.items()):
        middle = ROW * row + ROW / 2
        lower = goal["floor"] > goal["moonshot"]
        bars = [goal["floor"], goal["target"], goal["moonshot"]]
        known = [each for each in (*bars, goal["measured"]) if each]
        logs = [(-math.log(each) if lower else math.log(each)) for each in known if each > 0]
        low, high = min(logs), max(logs)
        place = _scale(low, high, begin + 10, end - 10)

        def at(value: float, place: Callable[[float], float] = place, lower: bool = lower) -> float:
            return place(-math.log(value) if lower else math.log(value))

        inside.append(_text(begin - 10, middle + 4, name, end=True))
        inside.append(f'<line x1="{begin}" x2="{end}" y1="{middle}" y2="{middle}" stroke="#ddd"/>')
        inside += [
            f'<line x1="{at(bar):.1f}" x2="{at(bar):.1f}" y1="{middle - 5}" y2="{middle + 5}" stroke="{colour}" stroke-width="2"/>'
            for bar, colour in zip(bars, ("#999", "#555", "#000"), strict=True)
        ]
        if goal["measured"]:
            inside.append(f'<circle cx="{at(goal["measured"]):.1f}" cy="{middle}" r="5" fill="{_COLOURS[0]}"/>')
        value = "" if goal["measured"] is None else number(goal["measured"]) + ": "
        inside.append(_text(end + 10, middle + 4, (value + goal["reached"])[:38]))
    return _svg(ROW * len(goals) + 4, inside)


def _bars(figure: Mapping[str, Any]) -> str:
    """Ours, then each contender with how many times as much ours is."""
    rows = [("leifeng", figure["value"], "REFUSED (noisy)" if figure["refused"] else "")]
    rows += [(label, each["value"], f"x{number(each['ratio']['median'])}") for label, each in figure["beside"].items()]
    most = max((value for _, value, _ in rows), default=0) or 1
    inside: list[str] = []
    for row, (label, value, said) in enumerate(rows):
        top, width = ROW * row + 2, (WIDTH - LABEL - 200) * value / most
        colour = _COLOURS[0] if row == 0 else "#d9c08f" if label.startswith("bound") else "#9aa7b1"
        inside.append(_text(LABEL - 10, top + 13, label, end=True))
        inside.append(f'<rect x="{LABEL}" y="{top}" width="{max(width, 1):.1f}" height="{ROW - 5}" fill="{colour}"/>')
        inside.append(_text(LABEL + width + 6, top + 13, f"{number(value)} {figure['unit']}  {said}"))
    return _svg(ROW * len(rows) + 4, inside)


Line = tuple[str, Sequence[tuple[float, float]]]


def curves(name: str, figures: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, Sequence[Line]]]:
    """What is a curve among the figures of a bench: over callers, over the size of a store, over the events a process has seen."""
    if name == "append-callers":
        counts = [(int(figure["name"].split()[0]), figure["value"]) for figure in figures]
        counts += [(int(label.split()[0]), each["value"]) for label, each in figures[0]["beside"].items() if label[0].isdigit()]
        yield "events/s by callers that wait", "callers", [("leifeng", sorted(dict(counts).items()))]
    if name == "growth":
        lines: dict[str, list[tuple[float, float]]] = {}
        for figure in figures:
            found = re.fullmatch(r"(\w+) at (\d+)", figure["name"])
            small = next(((label, each) for label, each in figure["beside"].items() if label.startswith("the same at")), None)
            if found and small:
                start = (float(small[0].rpartition(" ")[2]), 1.0)
                lines.setdefault(found[1], [start]).append((float(found[2]), small[1]["ratio"]["median"]))
        yield "rate over that of the small store, by size", "events", list(lines.items())
    if name == "soak":
        held: dict[str, list[tuple[float, float]]] = {}
        for key, value in figures[0]["also"].items():
            process, _, events = key.partition("_mib_at_")
            held.setdefault(process, []).append((float(events), value))
        yield "MiB resident by events in the log", "events", list(held.items())


def _lines(lines: Sequence[Line], unit: str) -> str:
    """Each with its name at its end; logarithmic in what they go over."""
    points = [point for _, each in lines for point in each]
    if not points:
        return ""
    height, begin, end = 240, 60, WIDTH - 200
    xs, ys = [math.log10(max(x, 1)) for x, _ in points], [y for _, y in points]
    right, up = _scale(min(xs), max(xs), begin, end), _scale(0, max(ys), height - 30, 15)
    inside = [f'<line x1="{begin}" x2="{end}" y1="{up(0)}" y2="{up(0)}" stroke="#999"/>']
    inside += [_text(begin - 6, up(y) + 4, number(y), end=True, dim=True) for y in (0, max(ys) / 2, max(ys))]
    inside += [_text(right(x) - 10, height - 12, number(10**x), dim=True) for x in sorted({min(xs), max(xs)})]
    inside.append(_text((begin + end) / 2, height - 12, unit, dim=True))
    for place, (name, each) in enumerate(lines):
        colour = _COLOURS[place % len(_COLOURS)]
        path = " ".join(f"{right(math.log10(max(x, 1))):.1f},{up(y):.1f}" for x, y in each)
        inside.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        inside.append(f'<rect x="{end + 20}" y="{18 * place + 12}" width="12" height="4" fill="{colour}"/>')
        inside.append(_text(end + 38, 18 * place + 18, name))
    return _svg(height, inside)


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    return lambda value: begin + (end - begin) * ((value - low) / (high - low) if high > low else 0.5)


def main(source: Path, target: Path) -> None:
    """Makes the page of a JSON file."""
    target.write_text(page(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results" / "latest.json"
    main(chosen, Path(sys.argv[2]) if len(sys.argv) > 2 else chosen.with_suffix(".html"))
