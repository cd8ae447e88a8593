"""What each source log says of itself: every worker reads the `heads` topics into `consumer.head` (architecture, section 7)."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from shared import logs
from shared.audit.heads import ChainHead
from shared.consumer.setting import Setting
from shared.consumer.shell import RETRY_SECONDS_MAX, StoppedError, insist
from shared.contracts.topics import subscribed
from shared.credentials import AccessError, client_settings, stamp
from shared.kafka import LOOK_MILLISECONDS, check_may_read, saying_why
from shared.lifecycle import pause
from shared.postgres import Pool

START_SECONDS_MAX: Final = 20.0
CLOSE_SECONDS_MAX: Final = 5.0
GATHER_SECONDS: Final = 1.0
"""The logs' words, each of which comes every two seconds, are kept together."""
_POLL_MILLISECONDS: Final = 2000
"""How long a fetch waits for a first word; it returns with it."""

_log = logs.logger()


class Counted(BaseModel):
    """What was counted of a log when one of its readers stood at `position`: the sum, and a digest of what it is made of."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    position: int
    total: int
    digest: int


class HeadSaid(BaseModel):
    """A record of a `heads` topic: where the log stands, by its own word."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    log_id: UUID
    head: int
    sealed: int
    published: int
    chain_hash: str
    time: datetime
    figures: Mapping[str, Counted] = {}
    """What the log's owner counted of it while it was at rest, by the figure's name."""
    reads: ChainHead | None = None
    """How far the service's chain of reads of personal data went then; None before anything was read."""


async def follow_heads(setting: Setting, stop: asyncio.Event) -> None:
    """Follows the heads of every log that the service reads until `stop`. Kafka and the database may be away."""
    sources = {source for consumer in ("views", "inbox", "withdrawals") for source in subscribed(f"{setting.service}.{consumer}")}
    places = {TopicPartition(f"{setting.kafka.prefix}{source}.heads", 0): source for source in sources}
    seconds = 0.2
    while not stop.is_set():
        servers = setting.kafka.servers
        made_with, consumer = stamp(servers), None
        try:
            consumer = AIOKafkaConsumer(
                **client_settings(servers),
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=_POLL_MILLISECONDS,
                consumer_timeout_ms=LOOK_MILLISECONDS,
            )
            consumer.assign(list(places))
            async with asyncio.timeout(START_SECONDS_MAX), saying_why(servers):
                await consumer.start()
            seconds = 0.2
            while not stop.is_set() and stamp(servers) == made_with:
                try:
                    found = await consumer.getmany(timeout_ms=_POLL_MILLISECONDS)
                    if not found:
                        for place in places:
                            check_may_read(consumer, place.topic)
                    if found and not await pause(stop, GATHER_SECONDS):
                        for place, records in (await consumer.getmany()).items():
                            found[place] = [*found.get(place, ()), *records]
                except UnicodeDecodeError as error:  # As in kafka.passing_over; here the next word is seconds away.
                    _log.warning("head_not_readable", exc_info=error)
                    await consumer.seek_to_end()
                    continue
                said = {places[place]: records for place, records in found.items()}
                await insist(lambda said=said: keep(setting.pool, said), stop, setting.metrics, "heads")  # type: ignore[misc]
        except StoppedError:
            return
        except (KafkaError, OSError, TimeoutError) as error:
            reason = str(error) if isinstance(error, AccessError) else None
            _log.warning("kafka_is_away", consumer="heads", reason=reason, exc_info=error)
        finally:
            if consumer is not None:
                with suppress(KafkaError, OSError, TimeoutError):
                    await asyncio.wait_for(consumer.stop(), CLOSE_SECONDS_MAX)
        await pause(stop, seconds)
        seconds = min(2 * seconds, RETRY_SECONDS_MAX)


async def keep(pool: Pool, records: Mapping[str, Sequence[Any]]) -> None:
    """Keeps of each source the newest of its `records` that can be read."""
    rows = []
    for source, its in records.items():
        for record in reversed(its):
            try:
                said = HeadSaid.model_validate_json(record.value or b"")
                chain_hash = bytes.fromhex(said.chain_hash)
            except (ValidationError, ValueError) as error:
                _log.warning("head_not_readable", source=source, exc_info=error)
                continue
            figures = to_json(said.figures).decode()
            rows.append((source, said.log_id, said.head, said.sealed, said.published, chain_hash, said.time, figures))
            break
    if rows:
        await pool.execute(_KEEP, *map(list, zip(*rows, strict=True)))


_KEEP: Final = """
    INSERT INTO consumer.head (log, log_id, head, sealed, published, chain_hash, said_at, figures)
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::timestamptz[], $8::jsonb[])
    ON CONFLICT (log) DO UPDATE SET log_id = excluded.log_id, head = excluded.head, sealed = excluded.sealed,
        published = excluded.published, chain_hash = excluded.chain_hash, said_at = excluded.said_at, figures = excluded.figures,
        seen_at = clock_timestamp()
    WHERE consumer.head.said_at <= excluded.said_at
        -- The relay's clock may have been wrong when it said the one or the other: a log that is longer has been spoken of later.
        OR consumer.head.head < excluded.head OR consumer.head.said_at > clock_timestamp() + interval '5 s'
"""
