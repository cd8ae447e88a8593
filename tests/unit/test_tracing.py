"""Trace context and ids as they arrive."""

from uuid import UUID

import pytest

from shared.tracing import child_of, parse_traceparent, parse_uuid

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_child_stays_in_its_parents_trace_under_a_span_of_its_own() -> None:
    parent = parse_traceparent(PARENT)
    assert parent is not None
    child = child_of(parent)
    assert (child.trace_id, child.sampled) == (parent.trace_id, True)
    assert child.span_id != parent.span_id
    assert parse_traceparent(str(child)) == child


@pytest.mark.parametrize(
    "text", [None, "", PARENT.upper(), PARENT[:-1], "ff" + PARENT[2:], PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)]
)
def test_a_wrong_traceparent_begins_a_new_trace(text: str | None) -> None:
    assert parse_traceparent(text) is None
    assert parse_traceparent(str(child_of(None))) is not None


@pytest.mark.parametrize(
    "text", ["", "{0197f3a4-5c00-7000-8000-000000000001}", "0197f3a45c0070008000000000000001", "０197f3a4-5c00-7000-8000-000000000001"]
)
def test_only_the_usual_form_of_a_uuid_is_read(text: str) -> None:
    assert parse_uuid(text) is None
    assert parse_uuid("0197f3a4-5c00-7000-8000-000000000001") == UUID("0197f3a4-5c00-7000-8000-000000000001")
