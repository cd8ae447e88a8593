"""The bench runs, and counts right. Nothing is said of speed here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.places import CHECKOUT


@pytest.mark.timeout(240)
def test_a_small_bench_counts_what_it_did_and_reports_every_goal(tmp_path: Path) -> None:
    file = tmp_path / "small.json"
    command = [sys.executable, "-m", "tests.bench", "append-new1", "project-live", "--small", "--out", str(file)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    run = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(file.read_text(encoding="utf-8"))
    said = {name: " ".join(bench["checked"]) for name, bench in report["benches"].items()}
    assert "no stream has a gap" in said["append-new1"]
    assert "the ledger is at 0" in said["project-live"]
    assert all(goal["reached"] == "small run" or goal["reached"].startswith("not measured: ") for goal in report["goals"].values())
    assert report["goals"]["G6"]["measured"] > 0
    assert report["peers"]["eventsourcing"]
    assert "eventsourcing" in run.stdout


def test_an_unknown_bench_is_told_by_name() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench", "appendix"], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 2
    assert "appendix" in run.stderr
    assert "append-new1" in run.stderr
