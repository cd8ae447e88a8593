"""Erasure and withdrawal, which no parked key can hold up (D8): roles, consent, persons of registration's log."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

import asyncpg
from pydantic_core import from_json, to_json

from shared import logs
from shared.codec import Codec
from shared.consumer.apply import Part
from shared.consumer.inbox import SET_DEADLINE
from shared.consumer.setting import Setting
from shared.consumer.values import Consumers, Fact, Fold
from shared.contracts.event import SEALED_PREFIX, Event
from shared.contracts.registration import (
    ConsentGiven,
    ConsentWithdrawn,
    DeviceKeyIssued,
    DeviceKeyRevoked,
    ErasureCompleted,
    ErasureDeclined,
    ErasureRequested,
    PersonalDataErased,
    RoleGranted,
    RoleWithdrawn,
    VolunteerDeregistered,
)
from shared.contracts.topics import subscribed
from shared.postgres import Connection
from shared.privacy import PersonalKeys

SOURCE: Final = "registration"
PERSON: Final = "person"
"""The kind of a person who left, or whose data were erased."""
ACKNOWLEDGE: Final = "acknowledge_erasure"
"""The use case that says, as an event, that this service has done its part; it falls due at once and is asked until it is answered."""

_log = logs.logger()


def parts(setting: Setting) -> Sequence[Part]:
    """What `withdrawals` does with registration's log. It blocks no key: what it cannot read is parked alone."""
    types = subscribed(f"{setting.service}.withdrawals")[SOURCE]
    fold = withdrawal_fold(setting.keys, setting.consumers, setting.codec)
    return [Part(consumer="withdrawals", source=SOURCE, types=types, folds=[fold], codec=setting.codec, blocks=False)]


async def run_withdrawals(setting: Setting, stop: asyncio.Event) -> None:
    """Returns on stop. Raises what ends a consumer: FencedError, NewerVersionError."""
    await setting.run(parts(setting), stop)


def withdrawal_fold(keys: PersonalKeys, consumers: Consumers[Any], codec: Codec) -> Fold:
    """Keeps `consumer.withdrawn` and `consumer.erasure`; on erasure it also destroys the person's key, what is sealed in parked payloads,
    what views show and by what the person signs in, and has that acknowledged.
    """

    async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
        await _destroy_keys(keys, connection, facts)
        for fact in facts:
            await _keep(connection, fact)
            if isinstance(fact.event, PersonalDataErased):
                await clear_person(connection, fact.event.volunteer_id, consumers, codec)
                if ACKNOWLEDGE in consumers.use_cases:
                    await _have_acknowledged(connection, fact.event.volunteer_id, fact, sign_in_destroyed=bool(consumers.forget))

    return fold


async def _keep(connection: Connection, fact: Fact) -> None:
    event, position = fact.event, fact.record.position
    match event:
        case RoleGranted():
            await connection.execute(_GIVEN, event.person_id, f"role:{event.role}:{event.unit_code}", position)
        case RoleWithdrawn():
            await connection.execute(_WITHDRAWN, event.person_id, f"role:{event.role}:{event.unit_code}", position)
        case DeviceKeyIssued():
            await connection.execute(_DEVICE, event.device_id, event.key_digest, event.unit_code, event.expires_at, event.networks)
        case DeviceKeyRevoked():
            await connection.execute(_REVOKED, event.device_id, position)
        case ConsentGiven():
            await connection.execute(_GIVEN, event.volunteer_id, f"consent:{event.consent}", position)
        case ConsentWithdrawn():
            await connection.execute(_WITHDRAWN, event.volunteer_id, f"consent:{event.consent}", position)
        case VolunteerDeregistered():
            await connection.execute(_WITHDRAWN, event.volunteer_id, PERSON, position)
        case ErasureRequested() | ErasureDeclined() | ErasureCompleted():
            await connection.execute(_ERASURE, event.volunteer_id, _STATES[type(event)], fact.record.time)
        case PersonalDataErased():
            await connection.execute(_WITHDRAWN, event.volunteer_id, PERSON, position)
            await connection.execute(_ERASURE, event.volunteer_id, "erased", fact.record.time)
        case _:
            pass


async def _destroy_keys(keys: PersonalKeys, connection: Connection, facts: Sequence[Fact]) -> None:
    """All keys first, in order: who writes clear values holds the keys of a whole batch, and would else be met half-way."""
    for person in sorted({fact.event.volunteer_id for fact in facts if isinstance(fact.event, PersonalDataErased)}):
        await keys.destroy(person, connection)


async def clear_person(connection: Connection, person: UUID, consumers: Consumers[Any], codec: Codec) -> None:
    """Empties what this service shows, holds back and lets sign in of a person whose key is destroyed, within the caller's transaction."""
    await _clear_parked(connection, person, codec)
    await _clear_views(connection, person, [each.erase for each in consumers.projections if each.erase is not None])
    for statement in consumers.forget:
        await connection.execute(statement, person)


async def _have_acknowledged(connection: Connection, person: UUID, fact: Fact, *, sign_in_destroyed: bool) -> None:
    record = fact.record
    body = {"erased_position": record.position, "sign_in_destroyed": sign_in_destroyed}
    await connection.execute(
        SET_DEADLINE, ACKNOWLEDGE, str(person), record.time, ACKNOWLEDGE, to_json({"volunteer_id": person}).decode(),
        to_json(body).decode(), record.event_id, record.position, record.correlation_id, record.traceparent,
    )  # fmt: skip


async def _clear_parked(connection: Connection, person: UUID, codec: Codec) -> None:
    """Parked payloads that speak of the person keep what is not sealed about them, so that a release gives what a replay would."""
    for row in await connection.fetch(_SELECT_PARKED, str(person)):
        of_person = row["key"] == str(person)
        cleared = without_sealed(row["payload"], codec.sealed_about(row["type"], row["payload"], person), everything=of_person)
        if of_person or cleared != row["payload"]:
            await connection.execute(_CLEAR_PARKED, row["consumer"], row["log"], row["position"], cleared)


async def _clear_views(connection: Connection, person: UUID, erase: Sequence[LiteralString]) -> None:
    """Read models lose the person's clear values now, those that are being built or are kept for rolling back too.

    Those of other definitions may lack what a statement names: they are rebuilt or dropped, and a rebuild reads null.
    """
    if not erase:
        return
    for row in await connection.fetch("SELECT schema FROM consumer.views ORDER BY schema"):
        await connection.execute("SELECT set_config('search_path', quote_ident($1), true)", row["schema"])
        for statement in erase:
            try:
                async with connection.transaction():
                    await connection.execute(statement, person)
            except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
                _log.error("not_erased_in_views", state=row["schema"], exc_info=error)


def without_sealed(payload: bytes, about: frozenset[str] | None, *, everything: bool) -> bytes:
    """A payload whose sealed fields named in `about` are null; with None, of a type that nobody knows, or `everything`, all of them.

    Nothing at all is left of one that is not an object.
    """
    try:
        body = from_json(payload)
    except ValueError:
        return b""
    if not isinstance(body, dict):
        return b""
    names = body.keys() if about is None or everything else about
    sealed = {name for name in names if isinstance(body.get(name), str) and body[name].startswith(SEALED_PREFIX)}
    return to_json({name: None if name in sealed else value for name, value in body.items()}) if sealed else payload


_STATES: Final[Mapping[type[Event], str]] = {ErasureRequested: "requested", ErasureDeclined: "declined", ErasureCompleted: "completed"}
_GIVEN: Final = """
    INSERT INTO consumer.withdrawn (subject, kind, given_position) VALUES ($1, $2, $3)
    ON CONFLICT (subject, kind) DO UPDATE SET given_position = excluded.given_position
"""
_WITHDRAWN: Final = """
    INSERT INTO consumer.withdrawn (subject, kind, position) VALUES ($1, $2, $3)
    ON CONFLICT (subject, kind) DO UPDATE SET position = excluded.position
"""
_DEVICE: Final = """
    INSERT INTO consumer.device (device_id, key_digest, unit_code, expires_at, networks) VALUES ($1, $2, $3, $4, $5::text[]::cidr[])
    ON CONFLICT (device_id) DO NOTHING
"""
_REVOKED: Final = "UPDATE consumer.device SET revoked_position = $2 WHERE device_id = $1"
_ERASURE: Final = """
    INSERT INTO consumer.erasure (subject, state, since) VALUES ($1, $2, $3)
    ON CONFLICT (subject) DO UPDATE SET state = excluded.state, since = excluded.since
"""
# A person is spoken of by their id; under their own key also where that stands nowhere in the payload.
_SELECT_PARKED: Final = """
    SELECT consumer, log, position, key, type, payload FROM consumer.parked
    WHERE state <> 'erased' AND (key = $1 OR position(convert_to($1, 'UTF8') IN payload) > 0) FOR UPDATE
"""
_CLEAR_PARKED: Final = """
    UPDATE consumer.parked SET payload = $4, state = 'erased' WHERE consumer = $1 AND log = $2 AND position = $3
"""
