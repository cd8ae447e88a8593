"""What the relay decides, without a broker and without a database."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from shared.envelope import Record, Stream
from shared.errors import InvariantError
from shared.relay.steps import START, Found, Link, Outgoing, Seen, Step, Verdict, as_sealed, chained, judge, next_step, said_by, tail_of

LOG = UUID("0193a000-0000-7000-8000-000000000001")
OTHER = UUID("0193a000-0000-7000-8000-000000000002")


def page(count: int, *, after: Link = START, log_id: UUID = LOG, payload: bytes = b"{}") -> list[Outgoing]:
    """The next `count` events after a link, as they go out."""
    return chained(after, [event(after.position + number, log_id, payload) for number in range(1, count + 1)])


def event(position: int, log_id: UUID = LOG, payload: bytes = b"{}") -> Record:
    return Record(
        service="hours",
        log_id=log_id,
        position=position,
        stream=Stream("attendance", OTHER),
        version=position,
        event_id=uuid4(),
        type="hours.volunteer_checked_in",
        schema_version=1,
        time=datetime(2026, 3, 5, tzinfo=UTC),
        command_id=uuid4(),
        correlation_id=uuid4(),
        causation_id=None,
        actor="kiosk:1",
        partition_key="key",
        traceparent=None,
        payload=payload,
    )


def found(event: Outgoing, **changed: bytes) -> Found:
    """The event as it lies in the topic, with some headers changed."""
    headers = dict(event.headers) | changed
    return Found(event.link.position - 1, list(headers.items()), event.value)


SEALED = Link(10, b"s" * 32)


@pytest.mark.parametrize(
    ("seen", "published", "hole", "step"),
    [
        (Seen("open", 10, SEALED), None, None, Step.READ_TAIL),
        (Seen("open", 10, SEALED), Link(7, b""), None, Step.PUBLISH),
        (Seen("open", 12, SEALED), Link(7, b""), None, Step.PUBLISH),
        (Seen("open", 12, SEALED), SEALED, None, Step.SEAL),
        (Seen("open", 10, SEALED), SEALED, None, Step.REST),
        (Seen("read-only", 12, SEALED), SEALED, None, Step.SEAL),
        (Seen("open", 12, SEALED), SEALED, Link(3, b""), Step.REPUBLISH),
        (Seen("open", 12, SEALED), None, Link(3, b""), Step.READ_TAIL),
        (Seen("recovering", 12, SEALED), SEALED, Link(3, b""), Step.WAIT_FOR_RECOVERY),
        (Seen("recovering", 12, SEALED), None, None, Step.WAIT_FOR_RECOVERY),
        (Seen("open", 12, SEALED), Link(11, b""), None, Step.SEAL),
    ],
)
def test_the_next_step(seen: Seen, published: Link | None, hole: Link | None, step: Step) -> None:
    assert next_step(seen, published, hole) is step


def test_a_page_with_a_gap_in_it_is_refused() -> None:
    with pytest.raises(InvariantError):
        chained(START, [event(1), event(3)])


def test_a_page_ends_at_the_last_seal_in_it_and_is_what_was_sealed() -> None:
    events = page(5)
    assert as_sealed(events, []) == events
    assert as_sealed(events, [events[1].link, events[3].link]) == events[:4]
    with pytest.raises(InvariantError):
        as_sealed(events, [Link(2, b"x" * 32), events[3].link])


def test_a_reader_takes_the_next_and_drops_the_rest() -> None:
    one, two, three = page(3)
    assert judge(START, LOG, found(one)) == (Verdict.NEXT, one.link)
    assert judge(one.link, LOG, found(one)) == (Verdict.REPEATED, one.link)
    assert judge(one.link, LOG, found(three)) == (Verdict.LATER, one.link)
    assert judge(one.link, LOG, found(two, ce_actor=b"somebody else")) == (Verdict.CHANGED, one.link)
    assert judge(one.link, LOG, Found(1, list(two.headers), b"{ }")) == (Verdict.CHANGED, one.link)
    assert judge(one.link, LOG, found(two, ce_logid=str(OTHER).encode())) == (Verdict.FOREIGN, one.link)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda headers: [each for each in headers if each[0] != "ce_sequence"],
        lambda headers: [*headers, ("ce_sequence", b"1")],
        lambda headers: [*headers, ("more", None)],
        lambda headers: [(name, b"\xff" if name == "ce_logid" else value) for name, value in headers],
        lambda headers: [(name, b"one" if name == "ce_sequence" else value) for name, value in headers],
        lambda headers: [(name, b"xyz" if name == "ce_chainhash" else value) for name, value in headers],
        lambda headers: [],
    ],
    ids=["missing", "doubled", "null", "not UTF-8", "not a number", "not a hash", "none"],
)
def test_headers_that_make_no_record_are_foreign(spoil: object) -> None:
    assert callable(spoil)
    assert said_by(LOG, Found(0, spoil(list(page(1)[0].headers)), b"{}")) is None


def test_the_tail_s_highest_record_is_where_to_go_on_also_when_a_late_page_lies_behind_it() -> None:
    events = [found(each) for each in page(8)]
    assert tail_of(LOG, events).linked == page_link(events, 8)
    assert tail_of(LOG, events[2:] + events[:4]).linked == page_link(events, 8)
    assert tail_of(LOG, []).linked is None


def page_link(events: list[Found], position: int) -> Link:
    link = said_by(LOG, events[position - 1])
    assert link is not None
    return link


def test_a_record_that_follows_nothing_is_not_the_end_of_the_log() -> None:
    events = page(4)
    intruder = found(events[3], ce_sequence=b"5".zfill(20))
    tail = tail_of(LOG, [*(found(each) for each in events[1:]), intruder])
    assert tail.linked == events[3].link
    assert [link.position for link in tail.loose] == [5, 2]


def test_an_intruder_does_not_hide_the_true_record_that_comes_after_it() -> None:
    events = page(4)
    intruder = found(events[3], ce_actor=b"somebody else")
    assert tail_of(LOG, [found(events[1]), found(events[2]), intruder, found(events[3])]).linked == events[3].link
    assert tail_of(LOG, [found(events[1]), found(events[2]), found(events[3]), intruder]).linked == events[3].link


def test_records_of_another_log_are_counted() -> None:
    mine, other = page(2), page(3, log_id=OTHER)
    tail = tail_of(LOG, [found(each) for each in (*other, *mine)])
    assert (tail.linked, tail.foreign) == (mine[1].link, 3)
