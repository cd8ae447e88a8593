"""What must hold at the end of every run, against models that are plain lists and dictionaries."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from shared.consumer.apply import Consumer
from shared.envelope import Record, chain_hash, headers_of
from tests.simulation import programme
from tests.simulation.database import Database, Pool, Row
from tests.simulation.programme import DECIDING, SEATS, SOURCES, TYPES, Closed, Dull, Extended, Freed, Opened, Taken
from tests.simulation.world import METRICS, Asked, Service, World

KNOWN: Final = frozenset({Taken.TYPE, Freed.TYPE, Dull.TYPE, Opened.TYPE, Extended.TYPE, Closed.TYPE})


# -- what is expected of a consumer


@dataclass
class Expected:
    """What a log makes of a consumer that reads all of it."""

    applied: list[tuple[int, str]] = field(default_factory=list)
    parked: dict[int, tuple[str, str]] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    ignored: int = 0

    def park(self, record: Record, why: str) -> None:
        """The first of a key says why, and those behind it wait."""
        self.parked[record.position] = (record.partition_key, "behind" if record.partition_key in self.blocked else why)
        self.blocked.add(record.partition_key)


def expected_of(records: Sequence[Record], types: frozenset[str], consumer: str) -> Expected:
    """Of look-ups or views."""
    found = Expected()
    for record in records:
        if record.type not in types and record.type in KNOWN:
            found.ignored += 1
        elif record.type not in types:
            found.park(record, "UnknownEventTypeError")
        elif record.partition_key in found.blocked or body(record).get("stumble") == consumer:
            found.park(record, "InvariantError")
        else:
            found.applied.append((record.position, record.partition_key))
    return found


def expected_of_reactions(records: Sequence[Record], at_look_ups: Expected) -> Expected:
    """Of the reactions to what the look-ups have applied."""
    found = Expected()
    for record in records:
        if record.type != Taken.TYPE or record.position in at_look_ups.parked:
            continue
        if record.partition_key in found.blocked or body(record)["stumble"] == "reaction":
            found.park(record, "InvariantError")
        else:
            found.applied.append((record.position, record.partition_key))
    return found


def body(record: Record) -> dict[str, Any]:
    """The payload."""
    read: dict[str, Any] = json.loads(record.payload)
    return read


# -- rest


def unrest(world: World) -> Iterator[str]:
    """What has not come to rest yet; nothing when all has."""
    heads = {name: len(service.store.records) for name, service in world.services.items()}
    for name, service in world.services.items():
        if (whole := readable(service)) < heads[name]:
            yield f"{name}'s topic is whole up to {whole} of {heads[name]}"
    deciding = world.services[DECIDING].database
    for consumer in ("views", "inbox"):
        for source in TYPES:
            place = position_of(deciding, consumer, source)
            if place["applied"] < heads[source]:
                yield f"{consumer} has applied {place['applied']} of {heads[source]} of {source}"
            if consumer == "inbox" and source == "registration" and place["reacted"] < heads[source]:
                yield f"reactions stand at {place['reacted']} of {heads[source]}"
    if waiting := deciding.rows("deadline"):
        yield f"{len(waiting)} deadlines have not fired"
    if world.services[DECIDING].store.state != "open":
        yield "the log waits for recovery"


def position_of(database: Database, consumer: str, source: str) -> Row:
    """Where a consumer stands."""
    return database.tables.get("position", {}).get((consumer, source)) or {"applied": 0, "reacted": 0}


def readable(service: Service) -> int:
    """How far a reader gets that takes what is the log's next record, byte for byte, and drops the rest."""
    position, expected = 0, service.expected
    for record in service.store.records[len(expected) :]:
        headers = headers_of(record)
        service.digest = chain_hash(service.digest, headers, record.payload)
        expected.append((record.payload, [*headers, ("ce_chainhash", service.digest.hex().encode())]))
    for raw in service.topic.records:
        if position < len(expected) and (raw.value, raw.headers) == expected[position]:
            position += 1
    return position


# -- promises


async def broken_promises(world: World) -> list[str]:
    """All that does not hold in a world that is at rest."""
    replayed = await _replayed(world)
    return [*_dense(world), *_consumed(world, replayed), *_reacted(world), *_fired(world), *_answered(world)]


def _dense(world: World) -> Iterator[str]:
    for name, service in world.services.items():
        positions = [record.position for record in service.store.records]
        if positions != list(range(1, len(positions) + 1)):
            yield f"{name}'s log is not dense: {positions}"
        seals = sorted(service.database.rows("seal"), key=lambda row: row["position"])
        if [row["previous"] for row in seals] != [0, *(row["position"] for row in seals)][: len(seals)]:
            yield f"{name}'s seals are no chain"


async def _replayed(world: World) -> Database:
    """What inbox and views make of the topics from the start, with nobody disturbing, in pages of other sizes."""
    database = Database(world.services[DECIDING].store, world.now, programme.STATEMENTS)
    pool: Any = Pool(database)
    for consumer in ("views", "inbox"):
        for part in world.parts(consumer):
            reader, messages = Consumer(part, pool, METRICS[DECIDING]), list(world.services[part.source].topic.records)
            await reader.begin()
            while messages:
                count = world.chance.randint(1, 30)
                await reader.take(messages[:count])
                del messages[:count]
    return database


def _consumed(world: World, replayed: Database) -> Iterator[str]:
    live = world.services[DECIDING].database
    for consumer in ("views", "inbox"):
        for source, types in TYPES.items():
            name, records = f"{consumer} of {source}", world.services[source].store.records
            expected = expected_of(records, types, consumer)
            for how, database in (("live", live), ("replayed", replayed)):
                told = [(row["position"], row["key"]) for row in _of(database, "told", consumer, source)]
                if told != expected.applied:
                    yield f"{name}, {how}, has applied {told} and not {expected.applied}"
                yield from _parked(database, f"{name}, {how},", consumer, source, "applied", expected)
            seen = (
                len(expected.ignored * [0])
                + len(_of(live, "told", consumer, source))
                + len(_of(live, "parked", consumer, source, "applied"))
            )
            if not seen == position_of(live, consumer, source)["applied"] == len(records):
                yield f"{name} has seen {len(records)}, and applied, ignored and parked {seen}"


def _parked(database: Database, name: str, consumer: str, source: str, stage: str, expected: Expected) -> Iterator[str]:
    parked = {row["position"]: (row["key"], row["error_class"]) for row in _of(database, "parked", consumer, source, stage)}
    if parked != expected.parked:
        yield f"{name} has parked {parked} and not {expected.parked}"
    blocked = {row["key"] for row in _of(database, "blocked", consumer, source, stage)}
    if blocked != expected.blocked:
        yield f"{name} has blocked {blocked} and not {expected.blocked}"


def _of(database: Database, table: str, consumer: str, source: str, stage: str | None = None) -> list[Row]:
    return [
        row
        for row in database.rows(table)
        if row["consumer"] == consumer and row["log"] == source and (stage is None or row["stage"] == stage)
    ]


def _reacted(world: World) -> Iterator[str]:
    """Each cause is answered with each of its commands, once; those of a key in the order of their causes."""
    causes, records = world.services["registration"].store.records, world.services[DECIDING].store.records
    expected = expected_of_reactions(causes, expected_of(causes, TYPES["registration"], "inbox"))
    yield from _parked(world.services[DECIDING].database, "reactions", "inbox", "registration", "reactions", expected)
    known, own = {record.event_id for record in causes}, {record.event_id for record in records}
    for record in records:
        if record.causation_id not in known | own:
            yield f"{DECIDING} {record.position} follows from nothing"
    followed = Counter((str(record.causation_id), record.type) for record in records if record.causation_id in known)
    wanted = Counter[tuple[str, str]]()
    opened_by = defaultdict[str, list[int]](list)
    for position, key in expected.applied:
        cause, number = str(causes[position - 1].event_id), body(causes[position - 1])["number"]
        wanted.update([(cause, Opened.TYPE), (cause, Extended.TYPE)][: programme.commands_for(number)])
        opened_by[key].append(number)
    if followed != wanted:
        yield f"reactions: too many {dict(followed - wanted)}, missing {dict(wanted - followed)}"
    opened = defaultdict[str, list[int]](list)
    for record in records:
        if record.type == Opened.TYPE:
            opened[record.partition_key].append(body(record)["number"])
    if not followed - wanted and opened != opened_by:
        yield f"reactions of a key are out of order: {dict(opened)} and not {dict(opened_by)}"


def _grouped(records: Sequence[Record]) -> dict[tuple[UUID | None, str], list[Record]]:
    """By cause and type."""
    found = defaultdict[tuple[UUID | None, str], list[Record]](list)
    for record in records:
        found[record.causation_id, record.type].append(record)
    return found


def _fired(world: World) -> Iterator[str]:
    """Every deadline has fired once, not before it was due, unless a later fact took its place first."""
    records = world.services[DECIDING].store.records
    setters = {record.event_id: record for record in records if record.type in (Opened.TYPE, Extended.TYPE)}
    last = {body(record)["number"]: record for record in setters.values()}
    fired = [record for record in records if record.causation_id in setters]
    for (_, type_), found in _grouped(fired).items():
        if len(found) > 1:
            yield f"the deadline of {body(found[0])['number']} has fired {len(found)} times, {type_}"
    for record in fired:
        due_at = body(next(each for each in setters.values() if each.event_id == record.causation_id))["due_at"]
        if record.time < datetime.fromisoformat(due_at):
            yield f"{record.position} was fired before it was due"
    for number, setter in last.items():
        own = [record for record in fired if body(record)["number"] == number]
        if not any(record.type == Closed.TYPE and record.position > setter.position for record in own):
            yield f"the deadline of {number} never fired"
        if programme.is_extended_when_due(number) and not any(record.type == Extended.TYPE for record in own):
            yield f"{number} was never extended"


def _answered(world: World) -> Iterator[str]:
    """Each command has one answer, and it is what its rule says of the stream as the log stood then."""
    for name in SOURCES:
        records = world.services[name].store.records
        asked = {each.command_id: each for each in world.asked if each.service == name}
        for record in records:
            if record.command_id not in asked:
                yield f"{name} {record.position} was asked by nobody"
        for each in asked.values():
            yield from _answer(each, records)


def _answer(asked: Asked, records: Sequence[Record]) -> Iterator[str]:
    first = asked.answers[0]
    told = {(each.outcome, each.first_position, each.count, each.refusal and each.refusal.code) for each in asked.answers}
    if len(told) > 1 or sum(not each.repeated for each in asked.answers) > 1:
        yield f"{asked.command_id} was answered in two ways: {told}"
    own = [record.position for record in records if record.command_id == asked.command_id]
    if own != list(range(first.first_position, first.first_position + first.count)):
        yield f"{asked.command_id} was answered with {first.count} events from {first.first_position}, and has {own}"
    seen_up_to = first.first_position - (first.outcome == "accepted")
    taken = 0
    for record in records[:seen_up_to]:
        if record.stream.id == asked.stream:
            taken += (record.type == Taken.TYPE) - (record.type == Freed.TYPE)
    should = taken < SEATS if asked.use_case is programme.TAKE else taken > 0
    if should != (first.outcome == "accepted"):
        yield f"{asked.use_case.name} was {first.outcome} at {first.first_position} with {taken} seats taken"
