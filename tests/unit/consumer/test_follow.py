"""The order of a log is restored from whatever Kafka holds: repeats, holes, foreign records, runs published again."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.consumer.apply import FencedError, Place, beyond, follow
from tests.integration.consumer.log import Counted, Log, Message

LENGTH = 12


def a_log() -> Log:
    log = Log()
    for n in range(LENGTH):
        log.say(f"k{n % 3}", Counted(number=n))
    return log


LOG, FOREIGN = a_log(), a_log()


@st.composite
def topics(draw: st.DrawFn) -> list[Message]:
    """Any mess, and at the end the whole log from some hole on, as a relay makes it good."""
    kinds = st.tuples(st.sampled_from(["good", "good", "good", "foreign", "torn", "bare"]), st.integers(1, LENGTH))
    mess: list[Message] = []
    for kind, position in draw(st.lists(kinds, max_size=40)):
        message = LOG.message(position)
        match kind:
            case "foreign":
                message = FOREIGN.message(position)
            case "torn":
                message = replace(message, value=b'{"number":77}')
            case "bare":
                message = replace(message, headers=[("ce_id", None)])
            case _:
                pass
        mess.append(message)
    return [LOG.message(1), *mess, *(LOG.message(position) for position in range(1, LENGTH + 1))]


@given(topics(), st.integers(1, 9))
def test_every_event_comes_once_and_in_order_however_it_was_published(topic: list[Message], size: int) -> None:
    place, found = Place(), list[int]()
    for start in range(0, len(topic), size):
        run = follow("seats", place, topic[start : start + size])
        assert len(run.entries) + run.repeated + run.missing == len(topic[start : start + size])
        found += [entry.record.position for entry in run.entries]
        place = run.entries[-1].place if run.entries else place
    assert found == list(range(1, LENGTH + 1))
    assert place.hash == LOG.hashes[LENGTH]
    assert place.log_id == LOG.log_id


def test_a_gap_is_over_when_the_next_one_comes_or_the_last_one_is_seen_again() -> None:
    first, second, third = (LOG.message(position) for position in (1, 2, 3))
    place = follow("seats", Place(), [first]).entries[-1].place
    assert follow("seats", place, [third]).gap is True
    assert follow("seats", place, [third, second]).gap is False
    assert follow("seats", place, [replace(second, value=b"{}"), first]).gap is False
    assert follow("seats", place, []).gap is None
    assert follow("seats", follow("seats", place, [second]).entries[-1].place, [first]).gap is None


def test_the_offset_after_the_last_verified_record_is_where_reading_begins_again() -> None:
    run = follow("seats", Place(), [LOG.message(1, offset=40), LOG.message(3, offset=41)])
    assert [entry.place.offset for entry in run.entries] == [41]


def test_of_verified_records_those_that_are_known_are_passed_over_and_none_is_taken_after_a_hole() -> None:
    entries = follow("seats", Place(), [LOG.message(position) for position in range(1, LENGTH + 1)]).entries
    run = beyond(entries[4].place, entries)
    assert ([each.record.position for each in run.entries], run.repeated, run.missing) == (list(range(6, LENGTH + 1)), 5, 0)
    assert beyond(entries[-1].place, entries).entries == []
    with pytest.raises(FencedError, match="what comes after 5 is not position 7"):
        beyond(entries[4].place, entries[6:])
