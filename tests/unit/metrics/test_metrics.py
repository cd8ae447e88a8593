"""The metrics as Prometheus reads them."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.metrics import DEFINITIONS, PREFIX, Definition, Metrics


def samples(metrics: Metrics) -> dict[str, list[dict[str, str]]]:
    """Labels of every sample by name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_every_sample_says_which_service_it_comes_from() -> None:
    metrics = Metrics("hours", "1.2.3")
    metrics.command_outcomes_total.labels("check_in", "accepted").inc()
    found = samples(metrics)
    assert {labels["service"] for held in found.values() for labels in held} == {"hours"}
    assert found["leifeng_command_outcomes_total"] == [{"service": "hours", "command": "check_in", "outcome": "accepted"}]
    assert found["leifeng_build_info"][0]["version"] == "1.2.3"
    assert "process_resident_memory_bytes" in found


def test_two_processes_in_one_interpreter_do_not_share_a_figure() -> None:
    one, other = Metrics("hours", "1"), Metrics("registration", "1")
    one.log_head_position.set(7)
    assert one.made["log_head_position"] is one.log_head_position
    assert b'leifeng_log_head_position{service="registration"} 0.0' in other.render()


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.name)
def test_names_and_words_follow_the_rules(definition: Definition) -> None:
    assert re.fullmatch(r"[a-z][a-z_]+", definition.name)
    assert (definition.kind == "counter") == definition.name.endswith("_total")
    assert definition.zh
    assert definition.en
    assert not {"service", "person", "id", "key", "volunteer"} & set(definition.labels)
    assert PREFIX + definition.name in Metrics("hours", "1").render().decode()
