"""The alert rules: tried with promtool, and about metrics that exist."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.local.environment import read_ports
from shared.metrics import DEFINITIONS, PREFIX

FOLDER = Path(__file__).parents[3] / "deploy" / "prometheus"
RULES = (FOLDER / "rules.yml").read_text(encoding="utf-8")
RULES_TEST = (FOLDER / "rules_test.yml").read_text(encoding="utf-8")
ALERTS = re.findall(r"- alert: (\w+)", RULES)

promtool = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(promtool is None, reason="promtool is not on this machine (Debian package prometheus)")


def run_promtool(*arguments: str) -> None:
    """Runs promtool in the rules' folder and shows what it says when it fails."""
    done = subprocess.run([str(promtool), *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def without_suffix(name: str) -> str:
    """A histogram stands in rules by its buckets."""
    return name.removesuffix("_bucket")


@needs_promtool
def test_promtool_accepts_configuration_and_rules() -> None:
    run_promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_every_alert_fires_when_it_should_and_stays_quiet_when_it_should_not() -> None:
    run_promtool("test", "rules", "rules_test.yml")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_quiet(alert: str) -> None:
    tests = [test for test in RULES_TEST.split("  - name: ") if re.search(rf"alertname: {alert}\b", test)]
    assert [test for test in tests if "exp_labels" in test]
    assert [test for test in tests if "exp_labels" not in test]


def test_every_metric_in_a_rule_exists_with_the_labels_the_rule_uses() -> None:
    labels = {PREFIX + each.name: {"service", "instance", *each.labels} for each in DEFINITIONS}
    named = {without_suffix(each) for each in re.findall(r"leifeng_[a-z_]+", RULES + RULES_TEST)}
    assert named
    assert named <= labels.keys()
    for name, held in re.findall(r"(leifeng_[a-z_]+)\{([^}]*)\}", RULES + RULES_TEST):
        assert set(re.findall(r"(\w+)=", held)) - {"le"} <= labels[without_suffix(name)], name


def test_prometheus_scrapes_every_process_of_the_local_stack() -> None:
    ports = read_ports({})
    expected = {f"127.0.0.1:{port}" for port in [*ports.api.values(), *ports.worker.values()]}
    targets = re.findall(r'targets: \["([^"]+)"\]', (FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    assert len(targets) == len(expected)
    assert set(targets) == expected
