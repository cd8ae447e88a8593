"""Erasure and withdrawal, which no parked key can hold up (D8): roles, consent, persons of registration's log."""

import asyncio
from collections.abc import Sequence
from typing import Final, LiteralString
from uuid import UUID

import asyncpg
from pydantic_core import from_json, to_json

from shared import logs
from shared.consumer.apply import Part
from shared.consumer.setting import Setting
from shared.consumer.values import Fact, Fold, Projection
from shared.contracts.event import SEALED_PREFIX
from shared.contracts.registration import (
    ConsentGiven,
    ConsentWithdrawn,
    DeviceKeyIssued,
    DeviceKeyRevoked,
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

_log = logs.logger()


def parts(setting: Setting) -> Sequence[Part]:
    """What `withdrawals` does with registration's log. It blocks no key: what it cannot read is parked alone."""
    types = subscribed(f"{setting.service}.withdrawals")[SOURCE]
    fold = withdrawal_fold(setting.keys, setting.consumers.projections)
    return [Part(consumer="withdrawals", source=SOURCE, types=types, folds=[fold], codec=setting.codec, blocks=False)]


async def run_withdrawals(setting: Setting, stop: asyncio.Event) -> None:
    """Returns on stop. Raises what ends a consumer: FencedError, NewerVersionError."""
    await setting.run(parts(setting), stop)


def withdrawal_fold(keys: PersonalKeys, projections: Sequence[Projection]) -> Fold:
    """Keeps `consumer.withdrawn`; on erasure it also destroys the person's key, what is sealed in parked payloads and what views show."""
    erase = [each.erase for each in projections if each.erase is not None]

    async def fold(connection: Connection, facts: Sequence[Fact]) -> None:
        for fact in facts:
            event, position = fact.event, fact.record.position
            match event:
                case RoleGranted():
                    await connection.execute(_GIVEN, event.person_id, f"role:{event.role}:{event.unit_code}", position)
                case RoleWithdrawn():
                    await connection.execute(_WITHDRAWN, event.person_id, f"role:{event.role}:{event.unit_code}", position)
                case DeviceKeyIssued():
                    await connection.execute(_DEVICE, event.device_id, event.key_digest, event.unit_code, event.expires_at)
                case DeviceKeyRevoked():
                    await connection.execute(_REVOKED, event.device_id, position)
                case ConsentGiven():
                    await connection.execute(_GIVEN, event.volunteer_id, f"consent:{event.consent}", position)
                case ConsentWithdrawn():
                    await connection.execute(_WITHDRAWN, event.volunteer_id, f"consent:{event.consent}", position)
                case VolunteerDeregistered():
                    await connection.execute(_WITHDRAWN, event.volunteer_id, PERSON, position)
                case PersonalDataErased():
                    await connection.execute(_WITHDRAWN, event.volunteer_id, PERSON, position)
                    await keys.destroy(event.volunteer_id, connection)
                    await _clear_parked(connection, event.volunteer_id)
                    await _clear_views(connection, event.volunteer_id, erase)
                case _:
                    pass

    return fold


async def _clear_parked(connection: Connection, person: UUID) -> None:
    """Parked payloads of the person keep what is not sealed, so that a release gives what a replay of the log would."""
    for row in await connection.fetch(_SELECT_PARKED, str(person)):
        await connection.execute(_CLEAR_PARKED, row["consumer"], row["log"], row["position"], without_sealed(row["payload"]))


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


def without_sealed(payload: bytes) -> bytes:
    """A payload whose sealed fields are null; nothing at all of one that is not an object."""
    try:
        body = from_json(payload)
    except ValueError:
        return b""
    if not isinstance(body, dict):
        return b""
    return to_json(
        {name: None if isinstance(value, str) and value.startswith(SEALED_PREFIX) else value for name, value in body.items()},
    )


_GIVEN: Final = """
    INSERT INTO consumer.withdrawn (subject, kind, given_position) VALUES ($1, $2, $3)
    ON CONFLICT (subject, kind) DO UPDATE SET given_position = excluded.given_position
"""
_WITHDRAWN: Final = """
    INSERT INTO consumer.withdrawn (subject, kind, position) VALUES ($1, $2, $3)
    ON CONFLICT (subject, kind) DO UPDATE SET position = excluded.position
"""
_DEVICE: Final = """
    INSERT INTO consumer.device (device_id, key_digest, unit_code, expires_at) VALUES ($1, $2, $3, $4) ON CONFLICT (device_id) DO NOTHING
"""
_REVOKED: Final = "UPDATE consumer.device SET revoked_position = $2 WHERE device_id = $1"
_SELECT_PARKED: Final = "SELECT consumer, log, position, payload FROM consumer.parked WHERE key = $1 AND state <> 'erased' FOR UPDATE"
_CLEAR_PARKED: Final = """
    UPDATE consumer.parked SET payload = $4, state = 'erased' WHERE consumer = $1 AND log = $2 AND position = $3
"""
