"""The checkers of the fault harness: each goes red when what it watches over is broken, and stays green when it is not."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest

from tests.faults.clerks import backwards
from tests.faults.clients import Asked, another
from tests.faults.invariants import (
    READERS,
    BrokenError,
    Fold,
    Hours,
    Left,
    Log,
    Recognition,
    Registration,
    Stored,
    Table,
    check_answers,
    check_authors,
    check_forgotten,
    check_private,
    check_published,
    check_reactions,
    check_reader,
    need,
)
from tests.faults.model import Erased

PERSON, OTHER = UUID(int=1), UUID(int=2)
ACTIVITY = str(UUID(int=7))


class Writer:
    """Writes events as a store would."""

    def __init__(self) -> None:
        self.positions: Iterator[int] = count(1)
        self.versions: dict[str, Iterator[int]] = {}

    def __call__(self, type_: str, said: Any = None, *, stream: str = "a-1", by: Asked | None = None) -> Stored:
        version = next(self.versions.setdefault(stream, count(1)))
        command_id, actor = (by.command_id, by.actor) if by else (uuid4(), "system:reactions")
        return Stored(
            next(self.positions), stream, version, uuid4(), f"x.{type_}", command_id, actor, json.dumps(said or {}, default=str).encode()
        )


def broken(code: str) -> Any:
    """The invariant that must be found broken."""
    return pytest.raises(BrokenError, match=f"^{code}: ")


def asked(*events: Stored, accepted: bool = True, key: str = "k1") -> Asked:
    """A command that was answered with these events."""
    said = [{"id": str(each.event_id), "type": each.type, "version": each.version, "position": each.position} for each in events]
    answer = {"events": said} if accepted else {"code": "activity_full"}
    return Asked("registration", (str(PERSON), "volunteer", "u"), "/x", {}, key, 200 if accepted else 409, answer)


def log_of(*events: Stored) -> Log:
    log = Log("registration")
    log.take(events)
    return log


def test_a_log_is_dense_in_positions_versions_and_ids() -> None:
    write = Writer()
    one, two, three = write("a"), write("b"), write("c")
    log_of(one, two, three)
    for spoilt in (
        (one, three),
        (one, replace(two, version=3), three),
        (one, replace(two, event_id=one.event_id), three),
        (one, two, replace(three, position=2)),
    ):
        with broken("I4"):
            log_of(*spoilt)


def test_what_was_accepted_is_there_once_and_as_answered() -> None:
    write, by = Writer(), asked()
    one, two = write("a", by=by), write("b", by=by)
    answered = asked(one, two)
    check_answers(log_of(one, two), [answered])
    with broken("I1"):
        check_answers(log_of(one), [answered])
    with broken("I3"):
        check_answers(log_of(one, two, write("b", by=by)), [answered])
    with broken("I3"):
        check_answers(log_of(one, replace(two, event_id=uuid4())), [answered])


def test_what_was_refused_left_nothing() -> None:
    refused = asked(accepted=False)
    check_answers(log_of(), [refused])
    with broken("I2"):
        check_answers(log_of(Writer()("a", by=refused)), [refused])


def test_nobody_writes_what_nobody_asked_for_and_everybody_stands_by_it() -> None:
    write, by = Writer(), asked()
    event = write("a", by=by)
    check_authors([event, write("b")], {by.command_id: by})
    with broken("I2"):
        check_authors([event], {})
    with broken("I17"):
        check_authors([replace(event, actor=f"unit_admin:{PERSON}")], {by.command_id: by})
    with broken("I17"):
        check_authors([replace(event, actor="system:")], {})


def test_the_topic_says_what_the_log_says_and_no_more() -> None:
    write = Writer()
    one, two = write("a"), write("b")
    published = [(each.event_id, each.payload) for each in (one, two)]
    assert check_published(log_of(one, two), published) == 2
    assert check_published(log_of(one, two), published[:1]) == 1
    for spoilt in (
        [*published, (uuid4(), b"{}")],
        [published[1], published[0]],
        [published[0], (two.event_id, b"{ }")],
        [published[0], (uuid4(), two.payload)],
    ):
        with broken("I5"):
            check_published(log_of(one, two), spoilt)


# -- Seats


def seats(capacity: int, *steps: tuple[str, UUID]) -> Registration:
    """What follows when one activity is published and these things happen."""
    write, fold = Writer(), Registration()
    events = [write("activity_published", {"activity_id": ACTIVITY, "positions": [{"capacity": capacity}]})]
    events += [write(short, {"activity_id": ACTIVITY, "volunteer_id": str(who)}) for short, who in steps]
    fold.reach(log_of(*events), len(events))
    return fold


def test_no_more_seats_than_there_are_at_any_instant() -> None:
    taken = [("enrollment_accepted", PERSON), ("enrollment_waitlisted", OTHER)]
    fold = seats(1, *taken, ("enrollment_withdrawn", PERSON), ("seat_offered", OTHER))
    assert fold.table("standings").rows == {
        (ACTIVITY, str(PERSON)): f"{ACTIVITY}|{PERSON}|withdrawn",
        (ACTIVITY, str(OTHER)): f"{ACTIVITY}|{OTHER}|offered",
    }
    with broken("I9"):
        seats(1, ("enrollment_accepted", PERSON), ("enrollment_accepted", OTHER))
    with broken("I9"):
        seats(1, ("enrollment_waitlisted", OTHER), ("enrollment_accepted", PERSON), ("seat_offered", OTHER))


def test_a_seat_is_offered_to_who_waits_longest_and_taken_by_whom_it_was_offered_to() -> None:
    waiting = [("enrollment_waitlisted", PERSON), ("enrollment_waitlisted", OTHER)]
    seats(1, *waiting, ("seat_offered", PERSON), ("offer_accepted", PERSON))
    with broken("I9"):
        seats(1, *waiting, ("seat_offered", OTHER))
    with broken("I9"):
        seats(1, *waiting, ("offer_accepted", PERSON))


# -- Minutes


def proposed(entry: str, starts: str, ends: str) -> tuple[str, dict[str, Any]]:
    return "service_time_proposed", {"entry_id": entry, "activity_id": ACTIVITY, **_who(), **_time(starts, ends)}


def confirmed(entry: str, starts: str, ends: str, credited: int, over_cap: int = 0, **postings: Any) -> tuple[str, dict[str, Any]]:
    lines = {"served": -credited - over_cap, "timed": credited, "over_cap": over_cap} | postings
    said = [{"account": account, "minutes": minutes} for account, minutes in lines.items()]
    body = {"entry_id": entry, "credited_minutes": credited, "over_cap_minutes": over_cap, "postings": said}
    return "service_time_confirmed", {**body, **_who(), **_time(starts, ends)}


def _who() -> dict[str, Any]:
    return {"volunteer_id": str(PERSON), "served_on": "2017-03-05"}


def _time(starts: str, ends: str) -> dict[str, str]:
    return {"starts_at": f"2017-03-05T{starts}:00+08:00", "ends_at": f"2017-03-05T{ends}:00+08:00"}


def minutes(*steps: tuple[str, dict[str, Any]]) -> Hours:
    write, fold = Writer(), Hours()
    events = [write(short, said) for short, said in steps]
    fold.reach(log_of(*events), len(events))
    return fold


def test_every_posting_group_balances_in_whole_minutes() -> None:
    minutes(proposed("e", "08:00", "09:00"), confirmed("e", "08:00", "09:00", 60))
    for wrong in ({"served": -59}, {"timed": 60.0}, {"timed": 59, "served": -59}):
        with broken("I7"):
            minutes(proposed("e", "08:00", "09:00"), confirmed("e", "08:00", "09:00", 60, **wrong))


def test_no_minute_counts_twice_and_a_day_has_its_cap() -> None:
    both = [proposed("e", "08:00", "10:00"), proposed("f", "09:00", "11:00")]
    minutes(*both, confirmed("e", "08:00", "09:00", 60), confirmed("f", "09:00", "11:00", 120))
    with broken("I8"):
        minutes(*both, confirmed("e", "08:00", "10:00", 120), confirmed("f", "09:00", "11:00", 120))
    with broken("I8"):
        minutes(*both, confirmed("e", "08:00", "17:00", 540))
    with broken("I8"):
        minutes(*both, confirmed("e", "08:00", "10:00", 121))


def test_an_entry_is_made_once_and_for_every_check_out() -> None:
    with broken("I3"):
        minutes(proposed("e", "08:00", "10:00"), proposed("e", "08:00", "10:00"))
    left = ("checked_out", {"activity_id": ACTIVITY, "volunteer_id": str(PERSON)})
    fold = minutes(left)
    check_reactions(fold, 0)
    with broken("I13"):
        check_reactions(fold, 1)
    check_reactions(minutes(left, proposed("e", "08:00", "10:00")), 2)


def test_a_star_is_won_once_and_by_enough_minutes() -> None:
    def stars(*steps: tuple[str, int]) -> Recognition:
        write, fold = Writer(), Recognition()
        said = {"volunteer_id": str(PERSON), "stars": 1, "threshold_minutes": 100}
        events = [write(short, said | {"confirmed_minutes": had}) for short, had in steps]
        fold.reach(log_of(*events), len(events))
        return fold

    assert stars(("star_granted", 100), ("star_withdrawn", 50)).table("stars").rows == {}
    with broken("I3"):
        stars(("star_granted", 100), ("star_granted", 100))
    with broken("I3"):
        stars(("star_withdrawn", 50))
    with broken("I8"):
        stars(("star_granted", 99))


# -- Readers


@pytest.mark.parametrize("spoil", [lambda table: table.drop(1), lambda table: table.put(1, "other"), lambda table: table.put(3, "more")])
def test_a_reader_that_skips_or_repeats_shows_other_rows(spoil: Callable[[Table], None]) -> None:
    fold = Fold()
    for number in (1, 2):
        fold.table(READERS[0].table).put(number, f"row {number}")
    shown = Table(dict(fold.table(READERS[0].table).rows), fold.table(READERS[0].table).digest)
    check_reader(READERS[0], fold, len(shown.rows), shown.digest)
    spoil(shown)
    with broken("I13"):
        check_reader(READERS[0], fold, len(shown.rows), shown.digest)


def test_nobodys_name_stands_where_it_can_be_read() -> None:
    check_private("a log", b'{"event":"command_answered"}')
    for said in ("赵小山".encode(), b"\\u8d75\\u5c0f\\u5c71", b"990000198001010019"):
        with broken("I14"):
            check_private("a log", b'{"reason":"' + said + b'"}')


def test_of_who_was_erased_neither_a_key_nor_a_word_is_left() -> None:
    person = Erased(PERSON, "孙小岸1", "990000198008010019")
    check_forgotten(person, Left("hours"))
    for left in (Left("hours", is_key_destroyed=False), Left("registration", clear_in=["views_1.volunteers"])):
        with broken("I15"):
            check_forgotten(person, left)


def test_a_table_knows_nothing_of_the_order_in_which_it_was_written() -> None:
    one, other = Table(), Table()
    for key, text in ((1, "a"), (2, "b"), (1, "c")):
        one.put(key, text)
    for key, text in ((3, "d"), (1, "c"), (2, "b")):
        other.put(key, text)
    other.drop(3)
    assert (one.rows, one.digest) == (other.rows, other.digest)


def test_a_session_that_is_shown_less_than_before_went_backwards() -> None:
    before = ("hours:log:7", "registration:log:3")
    assert backwards(before, ("registration:log:3", "hours:log:8")) == []
    assert backwards(before, ("registration:log:2", "hours:log:8")) == ["registration:log:3"]
    assert backwards(before, ("registration:log:3", "hours:other:9")) == ["hours:log:7"]


def test_another_request_is_another_address_or_body() -> None:
    for path, body in (("/activities", {"title": "t"}), ("/activities/1/attendance/2/check-in", {}), ("/volunteers/1/stars", {})):
        one = Asked("hours", ("p", "kiosk", "u"), path, body, "k")
        found = another(one)
        assert found is not None
        assert found != (path, body)
    assert another(Asked("registration", ("p", "bureau_admin", "bureau"), "/programmes", {"file": "f"}, "k")) is None


def test_who_asks_is_known_by_key_before_any_answer() -> None:
    one = Asked("hours", (str(PERSON), "kiosk", "u"), "/x", {}, "key")
    assert one.command_id == uuid5(PERSON, "key")
    assert one.actor == f"kiosk:{PERSON}"


def test_what_holds_is_not_broken() -> None:
    need(True, "I1")
    with broken("I1"):
        need(False, "I1", "gone")
