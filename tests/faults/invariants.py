"""The invariants of reliability.md 2.4, as counts of our own over what the logs, the topics and the read models hold.

Everything is told event by event and knows what the events mean from `domain.md` alone; nothing here is the project's code.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import md5
from typing import Any, ClassVar
from uuid import UUID

from tests.faults.clients import Asked
from tests.faults.model import DAILY_CAP, Erased
from tests.faults.world import CANARIES


class BrokenError(AssertionError):
    """An invariant does not hold. `code` is its number, `I4`."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(f"{code}: {what}")
        self.code = code


def need(holds: bool, code: str, what: object = "") -> None:
    """Raises BrokenError."""
    if not holds:
        raise BrokenError(code, str(what))


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as the store has it."""

    position: int
    stream: str
    version: int
    event_id: UUID
    type: str
    command_id: UUID
    actor: str
    payload: bytes

    @property
    def is_by_people(self) -> bool:
        return not self.actor.startswith("system:")

    @property
    def short(self) -> str:
        """`enrollment_accepted`."""
        return self.type.partition(".")[2]


@dataclass
class Log:
    """One service's log as it was read so far."""

    service: str
    events: list[Stored] = field(default_factory=list)
    by_command: dict[UUID, list[Stored]] = field(default_factory=dict)
    _versions: Counter[str] = field(default_factory=Counter)
    _ids: set[UUID] = field(default_factory=set)

    @property
    def head(self) -> int:
        return len(self.events)

    def take(self, more: Sequence[Stored]) -> None:
        """What came after. Positions 1 to n, versions 1 to n in each stream, every id once (I4)."""
        for each in more:
            need(each.position == self.head + 1, "I4", f"{self.service} has {each.position} after {self.head}")
            need(each.version == self._versions[each.stream] + 1, "I4", f"version of {each}, after {self._versions[each.stream]}")
            need(each.event_id not in self._ids, "I4", f"the same id twice: {each}")
            self.events.append(each)
            self._ids.add(each.event_id)
            self._versions[each.stream] = each.version
            self.by_command.setdefault(each.command_id, []).append(each)


def check_answers(log: Log, answered: Sequence[Asked]) -> None:
    """What was accepted is there exactly as answered (I1), once (I3); what was refused left nothing (I2)."""
    for each in answered:
        there = [
            {"id": str(event.event_id), "type": event.type, "version": event.version, "position": event.position}
            for event in log.by_command.get(each.command_id, ())
        ]
        if not each.accepted:
            need(not there, "I2", f"refused, and yet {there} of {each}")
            continue
        said = each.answer["events"]
        need(len(there) >= len(said), "I1", f"of {each} the log has {there}")
        need(there == said, "I3", f"answered {said}, the log has {there}")


def check_authors(events: Sequence[Stored], asked: Mapping[UUID, Asked]) -> None:
    """Nobody wrote what nobody asked for (I2); each change names who asked for it (I17)."""
    for each in events:
        need(bool(each.actor.partition(":")[2]), "I17", f"nobody stands behind {each}")
        if each.is_by_people:
            by = asked.get(each.command_id)
            need(by is not None, "I2", f"nobody asked for {each}")
            assert by is not None
            need(each.actor == by.actor, "I17", f"{by.actor} asked for what {each} says")


def check_private(where: str, text: bytes) -> None:
    """Nobody's name or ID number stands where it can be read (I14)."""
    for each in CANARIES:
        need(each.encode() not in text and json.dumps(each)[1:-1].encode() not in text, "I14", f"{each} in {where}")


@dataclass(frozen=True)
class Left:
    """What a service holds of somebody whose data were erased; `clear_in` are the tables in which name or ID number can be read."""

    service: str
    is_key_destroyed: bool = True
    clear_in: Sequence[str] = ()


def check_forgotten(person: Erased, left: Left) -> None:
    """The key is gone, so that no sealed text opens, wherever it lies; and nothing in the clear says who it was (I15)."""
    who = person.volunteer_id
    need(left.is_key_destroyed, "I15", f"{left.service} has the key of {who}, whose data were erased")
    need(not left.clear_in, "I15", f"{who} can be read in {', '.join(left.clear_in)} of {left.service}")


def check_published(log: Log, published: Sequence[tuple[UUID, bytes]], since: int = 0) -> int:
    """The topic says what the log says, in its order, and no more (I5). What both hold up to `since` was compared before; how far now."""
    need(len(published) <= log.head, "I5", f"the topic of {log.service} has {len(published)} events, the log {log.head}")
    for position in range(since, len(published)):
        event = log.events[position]
        need(published[position] == (event.event_id, event.payload), "I5", f"{log.service} {position + 1} was published as another")
    return len(published)


@dataclass
class Table:
    """Rows by key, and one number that tells two tables apart: the same that SQL makes of them (`DIGEST`)."""

    rows: dict[Any, str] = field(default_factory=dict)
    digest: int = 0

    def put(self, key: Any, text: str) -> None:
        """Writes a row, or another one in its place."""
        self.drop(key)
        self.rows[key] = text
        self.digest ^= _number(text)

    def drop(self, key: Any) -> None:
        """A row that is there no more, if it was."""
        if (old := self.rows.pop(key, None)) is not None:
            self.digest ^= _number(old)


DIGEST = "SELECT count(*) AS n, coalesce(bit_xor(('x' || left(md5(said), 16))::bit(64)::bigint), 0) AS digest FROM ({rows}) AS each (said)"


def _number(text: str) -> int:
    return int.from_bytes(md5(text.encode(), usedforsecurity=False).digest()[:8], signed=True)


class Fold:
    """What follows from a log up to a position: `tables` that readers of the log must show there, each told event by event."""

    TYPES: ClassVar[frozenset[str]]
    """What it takes, in short; of the rest nothing is read."""

    def __init__(self) -> None:
        self.position = 0
        self.tables: dict[str, Table] = {}

    def reach(self, log: Log, position: int) -> None:
        """Takes the log's events up to `position`, which lies ahead."""
        for event in log.events[self.position : position]:
            if event.short in self.TYPES:
                self.take(event, json.loads(event.payload))
        self.position = position

    def take(self, event: Stored, said: Mapping[str, Any]) -> None:
        """One event, and what it says."""
        raise NotImplementedError

    def table(self, name: str) -> Table:
        return self.tables.setdefault(name, Table())


_STANDINGS = {
    "enrollment_accepted": "seated",
    "offer_accepted": "seated",
    "enrollment_waitlisted": "waiting",
    "seat_offered": "offered",
    "enrollment_withdrawn": "withdrawn",
    "offer_expired": "expired",
}


@dataclass
class _Seats:
    capacity: int
    places: dict[str, str] = field(default_factory=dict)
    """In order of arrival."""

    def taken(self) -> int:
        return sum(standing != "waiting" for standing in self.places.values())


class Registration(Fold):
    """Seats at every instant of the event order (I9), and which roles are held."""

    TYPES = frozenset({"activity_published", "capacity_changed", "role_granted", "role_withdrawn", *_STANDINGS})

    def __init__(self) -> None:
        super().__init__()
        self._seats: dict[str, _Seats] = {}

    def take(self, event: Stored, said: Mapping[str, Any]) -> None:
        match event.short:
            case "activity_published":
                self._seats[said["activity_id"]] = _Seats(sum(each["capacity"] for each in said["positions"]))
            case "capacity_changed":
                self._seats[said["activity_id"]].capacity = said["capacity"]
            case (
                "enrollment_accepted"
                | "enrollment_waitlisted"
                | "seat_offered"
                | "offer_accepted"
                | "enrollment_withdrawn"
                | "offer_expired"
            ):
                self._seat(event, said["activity_id"], said["volunteer_id"])
            case "role_granted" | "role_withdrawn":
                held = event.short == "role_granted"
                key = said["person_id"], said["role"], said["unit_code"]
                self.table("roles").put(key, "|".join((*key, str(held).lower())))

    def _seat(self, event: Stored, activity: str, who: str) -> None:
        seats, short = self._seats[activity], event.short
        standing = _STANDINGS[short]
        if short == "seat_offered":
            first = next((each for each, stands in seats.places.items() if stands == "waiting"), None)
            need(first == who, "I9", f"{event} offers a seat to {who}, and {first} waits longest")
        if short == "offer_accepted":
            need(seats.places.get(who) == "offered", "I9", f"{event} takes what was not on offer")
        if standing in {"seated", "offered", "waiting"}:
            seats.places[who] = standing
        else:
            seats.places.pop(who, None)
        need(seats.taken() <= seats.capacity, "I9", f"{event} makes {seats.taken()} of {seats.capacity} seats")
        self.table("standings").put((activity, who), f"{activity}|{who}|{standing}")
        if standing in {"seated", "offered", "waiting"}:
            self.table("places").put((activity, who), f"{activity}|{who}|{str(standing == 'seated').lower()}")
        else:
            self.table("places").drop((activity, who))
        if standing == "seated":
            self.table("seats").put((activity, who), f"{activity}|{who}")
        elif short == "enrollment_withdrawn":
            self.table("seats").drop((activity, who))


@dataclass
class _Entry:
    who: str
    day: str
    starts_at: datetime
    ends_at: datetime
    state: str = "pending"
    credited: int = 0
    over_cap: int = 0


class Hours(Fold):
    """The ledger (I7), and whose minutes count when (I8). `owed` are the check-outs that have not led to an entry yet, by position."""

    _POSTED = frozenset({"service_time_confirmed", "service_time_corrected", "service_time_reversed"})
    TYPES = frozenset({"checked_out", "check_out_missed", "service_time_proposed", *_POSTED})

    def __init__(self) -> None:
        super().__init__()
        self.owed: dict[tuple[str, str], int] = {}
        self.ledger = 0
        self._entries: dict[str, _Entry] = {}
        self._of_day: dict[tuple[str, str], list[_Entry]] = {}
        self._minutes: dict[str, tuple[int, int]] = {}

    def take(self, event: Stored, said: Mapping[str, Any]) -> None:
        match event.short:
            case "checked_out" | "check_out_missed":
                self.owed[said["activity_id"], said["volunteer_id"]] = event.position
            case "service_time_proposed":
                self._proposed(event, said)
            case _:
                self._posted(event, said)

    def _proposed(self, event: Stored, said: Mapping[str, Any]) -> None:
        need(said["entry_id"] not in self._entries, "I3", f"an entry was made twice: {event}")
        entry = _Entry(said["volunteer_id"], said["served_on"], *_interval(said))
        self._entries[said["entry_id"]] = entry
        self._of_day.setdefault((entry.who, entry.day), []).append(entry)
        self.owed.pop((said["activity_id"], said["volunteer_id"]), None)
        self._show(said["entry_id"], entry)

    def _posted(self, event: Stored, said: Mapping[str, Any]) -> None:
        minutes = Counter[str]()
        for posting in said["postings"]:
            need(type(posting["minutes"]) is int, "I7", f"no whole minutes: {event}")
            minutes[posting["account"]] += posting["minutes"]
        need(sum(minutes.values()) == 0, "I7", f"{event} does not balance: {dict(minutes)}")
        self.ledger += sum(minutes.values())
        entry = self._entries[said["entry_id"]]
        credited, over_cap = (0, 0) if event.short.endswith("reversed") else (said["credited_minutes"], said["over_cap_minutes"])
        moved = (minutes["timed"], minutes["over_cap"])
        need(moved == (credited - entry.credited, over_cap - entry.over_cap), "I7", f"{event} posts {moved}")
        if event.short.endswith("reversed"):
            entry.state = "reversed"
        else:
            entry.state = "counted"
            entry.starts_at, entry.ends_at = _interval(said)
            served = int((entry.ends_at - entry.starts_at).total_seconds()) // 60
            need(served == credited + over_cap, "I8", f"{event} counts {credited} + {over_cap} of {served} minutes")
        entry.credited, entry.over_cap = credited, over_cap
        self._check_day(event, entry)
        timed, over = self._minutes.get(entry.who, (0, 0))
        self._minutes[entry.who] = timed + moved[0], over + moved[1]
        self._show(said["entry_id"], entry)

    def _check_day(self, event: Stored, entry: _Entry) -> None:
        counted = [each for each in self._of_day[entry.who, entry.day] if each.state == "counted"]
        for each in counted:
            apart = each is entry or entry.state != "counted" or each.ends_at <= entry.starts_at or entry.ends_at <= each.starts_at
            need(apart, "I8", f"{event} counts what {each} holds")
        need(sum(each.credited for each in counted) <= DAILY_CAP, "I8", f"{event} credits more than a day may have")

    def _show(self, entry_id: str, entry: _Entry) -> None:
        self.table("entries").put(entry_id, f"{entry_id}|{entry.state}|{entry.credited}|{entry.over_cap}")
        timed, over = self._minutes.get(entry.who, (0, 0))
        if (timed, over) != (0, 0):
            self.table("minutes").put(entry.who, f"{entry.who}|{timed}")
            self.table("all minutes").put(entry.who, f"{entry.who}|{timed}|{over}")
        else:
            self.table("minutes").drop(entry.who)
            self.table("all minutes").drop(entry.who)


def _interval(said: Mapping[str, Any]) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(said["starts_at"]), datetime.fromisoformat(said["ends_at"])


class Recognition(Fold):
    """Which stars are held."""

    TYPES = frozenset({"star_granted", "star_withdrawn"})

    def take(self, event: Stored, said: Mapping[str, Any]) -> None:
        key = said["volunteer_id"], said["stars"]
        is_held, granted = key in self.table("stars").rows, event.short == "star_granted"
        need(is_held != granted, "I3", f"{event} of a star that is {'held' if is_held else 'not held'}")
        if granted:
            need(said["confirmed_minutes"] >= said["threshold_minutes"], "I8", f"{event} for too few minutes")
            self.table("stars").put(key, f"{key[0]}|{key[1]}")
        else:
            self.table("stars").drop(key)


FOLDS: Mapping[str, type[Fold]] = {"registration": Registration, "hours": Hours, "recognition": Recognition}


@dataclass(frozen=True)
class Reader:
    """A table that one consumer keeps of one log, as rows of one text each that must be those of the fold's table of that name."""

    service: str
    consumer: str
    log: str
    table: str
    rows: str


READERS = (
    Reader(
        "registration", "views", "registration", "standings",
        "SELECT activity_id || '|' || volunteer_id || '|' || standing FROM {views}.enrollments",
    ),
    Reader(
        "registration", "views", "registration", "roles",
        "SELECT person_id || '|' || role || '|' || unit_code || '|' || is_held FROM {views}.roles",
    ),
    Reader(
        "registration", "views", "hours", "all minutes",
        "SELECT volunteer_id || '|' || timed || '|' || over_cap FROM {views}.volunteer_minutes WHERE timed <> 0 OR over_cap <> 0",
    ),
    Reader(
        "registration", "views", "recognition", "stars",
        "SELECT volunteer_id || '|' || stars FROM {views}.volunteer_stars WHERE is_held",
    ),
    Reader(
        "registration", "inbox", "registration", "places",
        "SELECT activity_id || '|' || volunteer_id || '|' || is_seated FROM lookup.enrollments",
    ),
    Reader(
        "hours", "views", "hours", "entries",
        "SELECT entry_id || '|' || state || '|' || credited_minutes || '|' || over_cap_minutes FROM {views}.entries",
    ),
    Reader("hours", "inbox", "registration", "seats", "SELECT activity_id || '|' || volunteer_id FROM lookup.seats"),
    Reader("recognition", "views", "recognition", "stars", "SELECT volunteer_id || '|' || stars FROM {views}.stars"),
    Reader(
        "recognition", "inbox", "hours", "minutes",
        "SELECT volunteer_id || '|' || minutes FROM lookup.confirmed_minutes WHERE minutes <> 0",
    ),
    *(
        Reader(
            service, "withdrawals", "registration", "roles",
            "SELECT subject || '|' || split_part(kind, ':', 2) || '|' || split_part(kind, ':', 3) || '|' || NOT withdrawn"
            " FROM consumer.withdrawn WHERE kind LIKE 'role:%'",
        )
        for service in FOLDS
    ),
)  # fmt: skip


def check_reader(reader: Reader, fold: Fold, rows: int, digest: int) -> None:
    """At the position of the consumer, its rows are those that follow from the log: nothing skipped, nothing taken twice (I13)."""
    table = fold.table(reader.table)
    need(
        (rows, digest) == (len(table.rows), table.digest),
        "I13",
        f"{reader.table} in {reader.service} {reader.consumer} at {reader.log} {fold.position}: {rows} rows, and {len(table.rows)} follow",
    )


def check_reactions(hours: Hours, reacted: int) -> None:
    """Each check-out that was reacted to has its entry (I13)."""
    late = {key: position for key, position in hours.owed.items() if position <= reacted}
    need(not late, "I13", f"reacted up to {reacted}, and no entry for {late}")
