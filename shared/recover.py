"""`recover`: a log that was restored from an older copy gets from Kafka what it lacks, and is opened (D1; architecture, section 7).

Kafka's records are taken only where they follow the chain from this log's last seal, and only at positions that this log has not given
out: a topic that has gone another way is refused. Each page is one transaction (events, answers to commands, claims, destroyed keys, the
seal), so a recovery that was killed goes on where it stood. Look-ups, deadlines and read models need nothing: their positions were
restored with the log and are not ahead of it, so their consumers read on by themselves.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from time import monotonic
from typing import Final
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer
from pydantic import ValidationError

from shared import kafka
from shared.application import Claim, Claims
from shared.audit.heads import ChainHead
from shared.codec import Codec
from shared.consumer.heads import HeadSaid
from shared.contracts.event import Event
from shared.contracts.registration import PersonalDataErased
from shared.contracts.topics import TOPICS
from shared.envelope import Record, Stream, record_of
from shared.errors import DeterministicError, LeifengError, NewerVersionError
from shared.eventstore.store import record_from_row
from shared.postgres import Connection
from shared.privacy import PersonalKeys
from shared.relay.readback import read, reading
from shared.relay.steps import START, Found, Link, Verdict, chained, judge, said_by
from shared.settings import Servers
from shared.states import Because, changing, state_of

PAGE_EVENTS_MAX: Final = 1000
PROGRESS_SECONDS: Final = 2.0


class RecoverError(LeifengError):
    """The log cannot be recovered from this topic; it stays closed. The text says at which position, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a recovery works with. `connection` is the owner's; `say` is told of progress, one line each time.

    `accept_loss` opens the log although Kafka has lost a tail that it once held: others may have read it, and will stop where it begins.
    `erase_again` destroys the keys of those who were erased after the copy, also where Kafka tells of it no more; it ends before anybody is
    let in.
    """

    connection: Connection
    service: str
    servers: Servers
    prefix: str
    codec: Codec
    keys: PersonalKeys
    claims: Claims
    because: Because
    say: Callable[[str], None]
    accept_loss: bool = False
    erase_again: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """What came of it. `lost` counts events that were acknowledged and never reached Kafka, as far as the log's last word tells.

    `without_keys` are the persons whose sealed fields came back and whose keys were younger than the copy: nobody can read those fields,
    and no claim of theirs (an ID number) could be taken again.
    """

    restored_head: int
    head: int
    lost: int
    without_keys: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class _Incoming:
    """A verified record of the topic."""

    link: Link
    record: Record
    published_at: datetime


@dataclass(frozen=True, slots=True)
class Word:
    """The furthest that a log has said of itself."""

    head: int = 0
    published: int = 0
    reads: frozenset[ChainHead] = frozenset()
    """Every head of the chain of reads that was said and is kept there."""


@dataclass(slots=True)
class _Reading:
    """Where the reader of the topic stands, and what did not fit there."""

    link: Link
    sealed: Link
    page: list[_Incoming] = field(default_factory=list)
    stuck_at: int | None = None
    agreed: int = 0
    contradicted: int | None = None


async def recover(recovery: Recovery) -> Recovered:
    """Closes the log, imports the tail, opens the log. May be run on any log, and again after a kill.

    Raises RecoverError, kafka.LOST_ERRORS, and what `erase_again` and the database raise; the log stays closed then.
    """
    log_id, restored_head = await _close(recovery)
    try:
        names = (f"{recovery.service}.events", f"{recovery.service}.heads")
        await kafka.ensure_topics(recovery.servers, recovery.prefix, [TOPICS[each] for each in names])
    except kafka.TopicsError as error:
        recovery.say(f"{error}; going on")
    said = await last_word(recovery.servers, recovery.prefix, recovery.service, log_id)
    async with reading(recovery.servers, kafka.topic_name(recovery.prefix, f"{recovery.service}.events"), "recover") as consumer:
        verified = await _import(recovery, consumer, log_id, said)
    head: int = await recovery.connection.fetchval(_HEAD)
    if said.published > max(head, verified) and not recovery.accept_loss:
        raise RecoverError(
            f"Kafka once held position {said.published} and now ends at {max(head, verified)}: others may have read what is missing. "
            "Bring Kafka's data or a newer copy of the database back; or run again with --accept-loss, and rebuild who has read further"
        )
    without_keys = await _replace_lost_keys(recovery, log_id, restored_head)
    if recovery.erase_again is not None:
        await recovery.erase_again()
    await _open(recovery)
    return Recovered(restored_head, head, max(said.head - head, 0), without_keys)


async def _close(recovery: Recovery) -> tuple[UUID, int]:
    """Nothing is appended or sealed from here on; the log's id and the last position that the restored copy held."""
    connection = recovery.connection
    async with changing(connection, recovery.because):
        await state_of(connection)
        await connection.execute("UPDATE es.log SET state = 'recovering' WHERE state <> 'recovering'")
        await connection.execute(_BEGIN)
        row = await connection.fetchrow("SELECT log_id, service, from_position FROM es.log, es.recovery")
    assert row is not None
    if row["service"] != recovery.service:
        raise RecoverError(f"the database holds the log of {row['service']}")
    return row["log_id"], row["from_position"]


async def _open(recovery: Recovery) -> None:
    async with changing(recovery.connection, recovery.because):
        await recovery.connection.execute(_OPEN)
        await recovery.connection.execute("DELETE FROM es.recovery")


async def last_word(servers: Servers, prefix: str, service: str, log_id: UUID) -> Word:
    """What a log has said of itself on its heads topic, as far as that is kept. Raises kafka.LOST_ERRORS."""
    topic = kafka.topic_name(prefix, f"{service}.heads")
    word, reads = Word(), set[ChainHead]()
    async with reading(servers, topic, f"{service}.last_word") as consumer:
        first, end = await kafka.offsets(consumer, topic)
        consumer.seek(kafka.only_partition(topic), first)
        while found := await read(consumer, topic, end):
            for record in found:
                with suppress(ValidationError):
                    said = HeadSaid.model_validate_json(record.value or b"")
                    if said.log_id == log_id:
                        word = Word(max(word.head, said.head), max(word.published, said.published))
                        reads |= set() if said.reads is None else {said.reads}
    return replace(word, reads=frozenset(reads))


async def _import(recovery: Recovery, consumer: AIOKafkaConsumer, log_id: UUID, said: Word) -> int:
    """Takes what follows the last seal; the last position of the topic that belongs to this log. Raises RecoverError."""
    topic = kafka.topic_name(recovery.prefix, f"{recovery.service}.events")
    sealed = await _last_seal(recovery.connection)
    at = _Reading(sealed, sealed)
    first, end = await kafka.offsets(consumer, topic)
    consumer.seek(kafka.only_partition(topic), await _begin_at(recovery, consumer, log_id, first, end))
    told_at = began_at = monotonic()
    while found := await read(consumer, topic, end):
        await _look(recovery, log_id, at, found)
        while len(at.page) >= PAGE_EVENTS_MAX:
            await _take(recovery, log_id, at, _whole_commands(at.page[:PAGE_EVENTS_MAX]))
        if monotonic() - told_at > PROGRESS_SECONDS:
            told_at = monotonic()
            rate = (at.link.position - sealed.position) / (told_at - began_at)
            recovery.say(f"read up to offset {found[-1].offset + 1} of {end}, position {at.link.position} of {said.head}, {rate:.0f}/s")
    if at.page:
        await _take(recovery, log_id, at, len(at.page))
    _refuse_another_way(at, topic)
    return at.link.position


async def _look(recovery: Recovery, log_id: UUID, at: _Reading, found: Sequence[Found]) -> None:
    """Judges records, and holds what the topic says of sealed positions against the seals."""
    old: dict[int, bytes] = {}
    for record in found:
        verdict, link = judge(at.link, log_id, record)
        if verdict is Verdict.NEXT:
            at.link, at.stuck_at = link, None
            published_at = datetime.fromtimestamp(record.time_ms / 1000, UTC)
            at.page.append(_Incoming(link, record_of(record.headers, record.value), published_at))
        elif verdict in (Verdict.CHANGED, Verdict.LATER):
            at.stuck_at = record.offset if at.stuck_at is None else at.stuck_at
        elif verdict is Verdict.REPEATED and (repeated := said_by(log_id, record)) is not None:
            old[repeated.position] = repeated.hash
    if old:
        for row in await recovery.connection.fetch(_SEALS_AMONG, list(old)):
            if old[row["position"]] == row["hash"]:
                at.agreed = max(at.agreed, row["position"])
            elif at.contradicted is None:
                at.contradicted = row["position"]


def _refuse_another_way(at: _Reading, topic: str) -> None:
    """Raises RecoverError for a topic in which something claims to come after this log and does not follow it."""
    if at.contradicted is not None and (at.stuck_at is not None or at.agreed < at.contradicted):
        raise RecoverError(
            f"{topic} is not a copy of this log: at position {at.contradicted} it holds another event than was sealed here. "
            "Nothing can be taken from it: is it the right cluster, and the right copy of the database?"
        )
    if at.stuck_at is not None:
        raise RecoverError(
            f"{topic} does not go on from this log: the record at offset {at.stuck_at} does not follow position {at.link.position}. "
            f"From position {at.link.position + 1} on the two have gone different ways, or that event is missing or damaged in Kafka: "
            "`verify` says which. Restore the copy again if something was appended to it, or a newer one"
        )


async def _begin_at(recovery: Recovery, consumer: AIOKafkaConsumer, log_id: UUID, first: int, end: int) -> int:
    """The offset to begin at: after what the relay had read back when the copy was made, if it still lies there; else the first."""
    row = await recovery.connection.fetchrow(_MARK)
    if row is None or row["first_offset"] != first or row["record_offset"] >= end:
        return first
    topic = kafka.topic_name(recovery.prefix, f"{recovery.service}.events")
    consumer.seek(kafka.only_partition(topic), row["record_offset"])
    found = await read(consumer, topic, end)
    stands = bool(found) and found[0].offset == row["record_offset"] and said_by(log_id, found[0]) == Link(row["position"], row["hash"])
    return int(row["record_offset"]) if stands else first


def _whole_commands(page: Sequence[_Incoming]) -> int:
    """How many of the page's records can be taken so that the last command among them is whole: a command appends fewer than a page."""
    last = page[-1].record.command_id
    return next((count for count in range(len(page) - 1, 0, -1) if page[count - 1].record.command_id != last), len(page))


async def _take(recovery: Recovery, log_id: UUID, at: _Reading, count: int) -> None:
    """The next `count` records become part of the log, in one transaction."""
    page, at.page = at.page[:count], at.page[count:]
    connection, last = recovery.connection, page[-1].link
    async with changing(connection, recovery.because):
        if await state_of(connection) != "recovering" or await _last_seal(connection) != at.sealed:
            raise RecoverError("somebody else works on this log: stop its processes and any other `recover`, and run again")
        head: int = await connection.fetchval(_HEAD)
        await _see_same(recovery, log_id, at.sealed, [each for each in page if each.link.position <= head])
        fresh = [each for each in page if each.link.position > head]
        if fresh:
            records = await _insert(recovery, fresh)
            if recovery.claims.refusals:
                await _claim(recovery, log_id, records)
            await _destroy_keys(recovery, records)
        await connection.execute(_SEAL, at.sealed.position, last.position, last.hash)
    at.sealed = last
    recovery.say(f"imported up to position {last.position}" if fresh else f"sealed again up to position {last.position}")


async def _see_same(recovery: Recovery, log_id: UUID, after: Link, known: Sequence[_Incoming]) -> None:
    """Events that this log holds unsealed must be those of the topic. Raises RecoverError."""
    if not known:
        return
    rows = await recovery.connection.fetch(_PAGE, after.position, len(known))
    own = chained(after, [record_from_row(row, recovery.service, log_id) for row in rows])
    for ours, theirs in zip(own, known, strict=True):
        if ours.link != theirs.link:
            raise RecoverError(
                f"this log and Kafka have gone different ways: position {ours.link.position} was given to another event here after the "
                "copy was restored. Restore the copy again, start nothing, and run `recover`; what was appended here must be asked again"
            )


async def _insert(recovery: Recovery, fresh: Sequence[_Incoming]) -> Sequence[Record]:
    """Events and the answers of their commands, which have no fingerprint: a repeat gets the first answer whatever its body."""
    records = [each.record for each in fresh]
    recorded = await recovery.connection.fetchval(_LAST_RECORDED) or datetime.min.replace(tzinfo=UTC)
    instants: list[datetime] = []
    for each in fresh:  # When it was recorded is not in the envelope; that it was published then comes nearest.
        recorded = max(recorded, each.published_at)
        instants.append(recorded)
    rows = [
        (
            each.position, each.stream.category, each.stream.id, each.version, each.event_id, each.type, each.schema_version, at, each.time,
            each.command_id, each.correlation_id, each.causation_id, each.actor, each.partition_key, each.traceparent, each.payload,
        )
        for each, at in zip(records, instants, strict=True)
    ]  # fmt: skip
    await recovery.connection.copy_records_to_table("event", schema_name="es", columns=_COLUMNS, records=rows)
    commands = [
        (command_id, (group := list(each))[0][0].position, len(group), group[0][1])
        for command_id, each in groupby(zip(records, instants, strict=True), key=lambda pair: pair[0].command_id)
    ]
    await recovery.connection.executemany(_KEEP_ANSWER, commands)
    return records


async def _claim(recovery: Recovery, log_id: UUID, records: Sequence[Record]) -> None:
    """Makes the claims of every stream that took or gave back something what its events say, read with the keys that are there."""
    connection = recovery.connection
    events = await _decoded(recovery, records)
    streams = {
        record.stream: None
        for record, event in zip(records, events, strict=True)
        if event is not None and (recovery.codec.has_personal(record.type) or any(recovery.claims.of(event, recovery.keys.blind)))
    }
    categories, ids = [each.category for each in streams], [each.id for each in streams]
    rows = await connection.fetch(_STREAMS, categories, ids)
    history = [record_from_row(row, recovery.service, log_id) for row in rows]
    held: dict[Stream, dict[Claim, None]] = {}
    for record, event in zip(history, await _decoded(recovery, history), strict=True):
        if event is None:
            continue
        taken, released = recovery.claims.of(event, recovery.keys.blind)
        of_stream = held.setdefault(record.stream, {})
        for claim in released:
            of_stream.pop(claim, None)
        of_stream.update(dict.fromkeys(taken))
    await connection.execute(_RELEASE, categories, ids)
    try:
        await connection.executemany(
            "INSERT INTO es.claim (scope, value, category, stream_id) VALUES ($1, $2, $3, $4)",
            [(claim.scope, claim.value, stream.category, stream.id) for stream, claims in held.items() for claim in claims],
        )
    except asyncpg.UniqueViolationError:
        raise RecoverError(f"two streams claim the same, up to position {records[-1].position}: was the log changed by hand?") from None


async def _decoded(recovery: Recovery, records: Sequence[Record]) -> Sequence[Event | None]:
    """The events, opened as far as the keys that are there open them; None for what no code of ours can read, which takes no claims."""
    await recovery.keys.load_with(_sealed_for(recovery.codec, records), recovery.connection)

    def open_(subject: UUID, place: str, sealed: str) -> str | None:
        return None if _is_lost(recovery.keys, subject, place, sealed) else recovery.keys.unseal(subject, place, sealed)

    events: list[Event | None] = []
    for each in records:
        try:
            events.append(recovery.codec.decode(each, open_))
        except NewerVersionError as error:
            raise RecoverError(f"position {each.position}: {error}; recover with the code that wrote it") from None
        except DeterministicError:
            events.append(None)
    return events


def _is_lost(keys: PersonalKeys, subject: UUID, place: str, sealed: str) -> bool:
    """Whether the key of this person, although there is one, is not the one that the text was sealed under."""
    try:
        keys.unseal(subject, place, sealed)
    except ValueError:
        return True
    return False


def _sealed_for(codec: Codec, records: Iterable[Record], lost: Callable[[UUID, str, str], bool] = lambda *_: True) -> set[UUID]:
    """The persons about whom these records have sealed fields of which `lost` is true."""
    subjects: set[UUID] = set()

    def note(subject: UUID, place: str, sealed: str) -> None:
        if lost(subject, place, sealed):
            subjects.add(subject)

    for each in records:
        if codec.has_personal(each.type):
            with suppress(DeterministicError, NewerVersionError):
                codec.decode(each, note)
    return subjects


async def _destroy_keys(recovery: Recovery, records: Sequence[Record]) -> None:
    """An erasure of after the copy is done again: the copy has brought the key back."""
    for each in records:
        if each.type == PersonalDataErased.TYPE:
            event = recovery.codec.decode(each)
            assert isinstance(event, PersonalDataErased)
            await recovery.keys.destroy(event.volunteer_id, recovery.connection)


async def _replace_lost_keys(recovery: Recovery, log_id: UUID, after: int) -> Sequence[UUID]:
    """The persons whose keys the copy did not have yet; they get others, for what they say from now on.

    A key may be there all the same: a command that was asked while the log was closed made it, and it opens nothing of before.
    """
    connection, lost = recovery.connection, set[UUID]()
    while rows := await connection.fetch(_PAGE, after, PAGE_EVENTS_MAX):
        records = [record_from_row(row, recovery.service, log_id) for row in rows]
        after = records[-1].position
        subjects = _sealed_for(recovery.codec, records)
        if not subjects:
            continue
        async with changing(connection, recovery.because):
            gone = set(await recovery.keys.load_with(subjects, connection))
            gone |= _sealed_for(recovery.codec, records, lambda *sealed: _is_lost(recovery.keys, *sealed))
            await recovery.keys.replace_lost(gone, connection)
        lost |= {row["subject"] for row in await connection.fetch(_LOST, list(subjects))}
    return sorted(lost)


async def _last_seal(connection: Connection) -> Link:
    row = await connection.fetchrow("SELECT position, hash FROM es.seal ORDER BY position DESC LIMIT 1")
    return START if row is None else Link(row["position"], row["hash"])


_COLUMNS: Final = (
    "position", "category", "stream_id", "version", "event_id", "type", "schema_version", "recorded_at", "time", "command_id",
    "correlation_id", "causation_id", "actor", "partition_key", "traceparent", "payload",
)  # fmt: skip
_HEAD: Final = "SELECT coalesce(max(position), 0) FROM es.event"
_LAST_RECORDED: Final = "SELECT recorded_at FROM es.event ORDER BY position DESC LIMIT 1"
_BEGIN: Final = "INSERT INTO es.recovery (from_position) SELECT coalesce(max(position), 0) FROM es.event ON CONFLICT DO NOTHING"
_OPEN: Final = """
    UPDATE es.log SET state = 'open', system_id = (SELECT system_identifier FROM pg_control_system()), timeline = es.timeline()
"""
_MARK: Final = "SELECT first_offset, record_offset, position, hash FROM es.relay_mark"
_SEALS_AMONG: Final = "SELECT position, hash FROM es.seal WHERE position = ANY($1::bigint[]) ORDER BY position"
_SEAL: Final = "INSERT INTO es.seal (previous, position, hash) VALUES ($1, $2, $3)"
_EVENT: Final = """
    SELECT event.position, event.category, event.stream_id, event.version, event.event_id, event.type, event.schema_version, event.time,
        event.command_id, event.correlation_id, event.causation_id, event.actor, event.partition_key, event.traceparent, event.payload
    FROM es.event
"""
_PAGE: Final = _EVENT + "WHERE position > $1 ORDER BY position LIMIT $2"
_STREAMS: Final = (
    _EVENT + "JOIN unnest($1::text[], $2::uuid[]) AS wanted (category, stream_id) USING (category, stream_id) ORDER BY event.position"
)
_LOST: Final = "SELECT subject FROM keys.person WHERE follows_lost AND subject = ANY($1::uuid[])"
_RELEASE: Final = """
    DELETE FROM es.claim USING unnest($1::text[], $2::uuid[]) AS wanted (category, stream_id)
    WHERE claim.category = wanted.category AND claim.stream_id = wanted.stream_id
"""
# What the log holds is what happened: also where a repeat was judged anew, and refused, before the log was closed.
_KEEP_ANSWER: Final = """
    INSERT INTO es.command (command_id, outcome, position, event_count, at) VALUES ($1, 'accepted', $2, $3, $4)
    ON CONFLICT (command_id) DO UPDATE SET outcome = 'accepted', position = excluded.position, event_count = excluded.event_count,
        refusal = NULL, actor = NULL, correlation_id = NULL
"""
