"""What a log line may say."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from shared import logs
from tests.conftest import plain_logs

ID = UUID("0197f3a4-5c00-7000-8000-000000000001")


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    made = io.StringIO()
    logs.configure("hours", "1.2.3", out=made)
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)
    plain_logs()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_service_and_correlation_id(out: io.StringIO) -> None:
    with logs.bound(correlation_id=ID, command="check_in"):
        logs.logger().info("command_answered", outcome="accepted", duration_ms=3.5)
    (line,) = lines(out)
    assert line["time"].endswith("Z")
    assert (line["service"], line["version"], line["level"]) == ("hours", "1.2.3", "info")
    assert (line["event"], line["outcome"], line["duration_ms"]) == ("command_answered", "accepted", 3.5)
    assert (line["correlation_id"], line["command"]) == (str(ID), "check_in")


def test_a_text_under_an_unknown_name_is_not_written(out: io.StringIO) -> None:
    logs.logger().info("registered", name="赵大山", phone="13800000000", body={"a": "b"}, contacts=["x"], minutes=90, person_id=ID)
    (line,) = lines(out)
    assert [line[name] for name in ("name", "phone", "body", "contacts")] == [logs.REDACTED] * 4
    assert (line["minutes"], line["person_id"]) == (90, str(ID))


def test_an_exception_is_written_as_type_and_places_without_its_message(out: io.StringIO) -> None:
    try:
        int("dashan@example.org")
    except ValueError:
        logs.logger().exception("append_failed")
    logging.getLogger("asyncio").error("task failed", exc_info=ValueError("dashan@example.org"))
    assert "dashan" not in out.getvalue()
    assert [line["error"] for line in lines(out)] == ["ValueError", "ValueError"]
    assert "test_logs.py" in lines(out)[0]["where"]


def test_a_library_that_repeats_itself_is_heard_once_a_second(out: io.StringIO) -> None:
    for _ in range(40):
        logging.getLogger("aiokafka.conn").error("Unable to connect")
    assert len(lines(out)) == 1


def test_a_stream_is_named_by_a_pseudonym_that_stays_the_same() -> None:
    assert logs.pseudonym(f"volunteer-{ID}") == logs.pseudonym(f"volunteer-{ID}")
    assert logs.pseudonym(f"volunteer-{ID}").startswith("volunteer-")
    assert str(ID)[:8] not in logs.pseudonym(f"volunteer-{ID}")
