"""The envelope of an event: one record in the store, CloudEvents 1.0 binary mode on Kafka (D5), and the hash chain over both.

The chain (D4) runs over canonical bytes that store and Kafka agree on: the headers without the chain hash, sorted and
length-prefixed, then the stored payload, byte for byte. Sealed fields stay sealed, so erasure breaks nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final
from uuid import UUID

from asyncpg.pgproto import pgproto

from shared.errors import EnvelopeError

CHAIN_START: Final = bytes(32)
"""The hash before position 1."""

POSITION_DIGITS: Final = 20
"""Width of `ce_sequence`, so that text order is number order up to 2^63."""

CHAIN_HEADER: Final = "ce_chainhash"
"""The header that holds the hash after its event."""

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Stream:
    """One aggregate's history: a category (no dash) and an id."""

    category: str
    id: UUID

    def __str__(self) -> str:
        return f"{self.category}-{self.id}"

    @staticmethod
    def parse(text: str) -> "Stream":
        """Reads `category-uuid`. Raises EnvelopeError."""
        category, _, rest = text.partition("-")
        try:
            return Stream(category, pgproto.UUID(rest))
        except ValueError as error:
            raise EnvelopeError("stream name is not category-uuid") from error


@dataclass(frozen=True, slots=True)
class Record:
    """An event as it stands in a log: coordinates, metadata and the stored payload bytes.

    `position` is dense in the log and starts at 1, `version` dense in the stream. `time` is the business clock (`ce_time`).
    """

    service: str
    log_id: UUID
    position: int
    stream: Stream
    version: int
    event_id: UUID
    type: str
    schema_version: int
    time: datetime
    command_id: UUID
    correlation_id: UUID
    causation_id: UUID | None
    actor: str
    partition_key: str
    traceparent: str | None
    payload: bytes


def headers_of(record: Record) -> list[tuple[str, bytes]]:
    """The CloudEvents headers of a record, without the chain hash, in a fixed order."""
    pairs: list[tuple[str, str]] = [
        ("ce_specversion", "1.0"),
        ("ce_id", str(record.event_id)),
        ("ce_source", f"/leifeng/{record.service}"),
        ("ce_type", record.type),
        ("ce_subject", str(record.stream)),
        ("ce_time", _time_text(record.time)),
        ("ce_dataschema", f"urn:leifeng:schema:{record.type}:{record.schema_version}"),
        ("content-type", "application/json"),
        ("ce_partitionkey", record.partition_key),
        ("ce_logid", str(record.log_id)),
        ("ce_sequence", str(record.position).zfill(POSITION_DIGITS)),
        ("ce_streamversion", str(record.version)),
        ("ce_schemaversion", str(record.schema_version)),
        ("ce_commandid", str(record.command_id)),
        ("ce_correlationid", str(record.correlation_id)),
        ("ce_actor", record.actor),
    ]
    if record.causation_id is not None:
        pairs.append(("ce_causationid", str(record.causation_id)))
    if record.traceparent is not None:
        pairs.append(("traceparent", record.traceparent))
    return [(name, text.encode()) for name, text in pairs]


def record_of(headers: Sequence[tuple[str, bytes | None]], payload: bytes | None) -> Record:
    """Reads a record back from Kafka. Raises EnvelopeError for a header that is missing, null, doubled or not UTF-8."""
    texts = _texts(headers)
    if payload is None:
        raise EnvelopeError("record has no value")
    try:  # pgproto's UUID is a UUID, read in a tenth of the time.
        causation = texts.get("ce_causationid")
        record = Record(
            service=texts["ce_source"].removeprefix("/leifeng/"),
            log_id=pgproto.UUID(texts["ce_logid"]),
            position=int(texts["ce_sequence"]),
            stream=Stream.parse(texts["ce_subject"]),
            version=int(texts["ce_streamversion"]),
            event_id=pgproto.UUID(texts["ce_id"]),
            type=texts["ce_type"],
            schema_version=int(texts["ce_schemaversion"]),
            time=datetime.fromisoformat(texts["ce_time"]),
            command_id=pgproto.UUID(texts["ce_commandid"]),
            correlation_id=pgproto.UUID(texts["ce_correlationid"]),
            causation_id=pgproto.UUID(causation) if causation is not None else None,
            actor=texts["ce_actor"],
            partition_key=texts["ce_partitionkey"],
            traceparent=texts.get("traceparent"),
            payload=payload,
        )
    except KeyError as error:
        raise EnvelopeError(f"header {error.args[0]} is missing") from error
    except ValueError as error:
        raise EnvelopeError("a header does not parse") from error
    if record.time.tzinfo is None:
        raise EnvelopeError("ce_time has no zone")
    return record


def _texts(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    name = ""
    try:
        for name, raw in headers:
            texts[name] = raw.decode()  # type: ignore[union-attr]
    except AttributeError:
        raise EnvelopeError(f"header {name[:40]!r} is null") from None
    except UnicodeDecodeError:
        raise EnvelopeError(f"header {name[:40]!r} is not UTF-8") from None
    if len(texts) < len(headers):
        raise EnvelopeError("a header is doubled")
    return texts


def chain_hash(previous: bytes, headers: Headers, payload: bytes) -> bytes:
    """SHA-256 of the previous hash, the canonical headers and the payload; `ce_chainhash` itself is left out."""
    order = _canonical(tuple([name for name, _ in headers]))
    if order is None:  # Two of one name stand in the order of their values.
        headers = sorted(headers)
        order = [(index, _length_and(name.encode())) for index, (name, _) in enumerate(headers) if name != CHAIN_HEADER]
    parts = [previous, len(order).to_bytes(4)]  # The number: else a header could move into the front of the payload under the same hash.
    for index, name in order:
        value = headers[index][1]
        parts += (name, len(value).to_bytes(4), value)
    parts.append(payload)
    return sha256(b"".join(parts)).digest()


@lru_cache(maxsize=100)  # Of one service's events a handful; what a stranger calls his headers costs nothing for long.
def _canonical(names: tuple[str, ...]) -> Sequence[tuple[int, bytes]] | None:
    """In which order headers of these names enter the hash, each with its name's bytes; None when a name is there twice."""
    if len(set(names)) < len(names):
        return None
    order = sorted(range(len(names)), key=names.__getitem__)
    return [(index, _length_and(names[index].encode())) for index in order if names[index] != CHAIN_HEADER]


def _length_and(text: bytes) -> bytes:
    return len(text).to_bytes(4) + text


def _time_text(instant: datetime) -> str:
    """RFC 3339 in UTC with microseconds, so that equal instants have equal bytes."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
