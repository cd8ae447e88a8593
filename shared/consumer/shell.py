"""The thin shell between Kafka and whoever reads a log: a FastStream batch subscriber on one fixed partition (D7, stack.md 1).

Positions in Postgres are what counts; Kafka's offsets only say where to begin looking, and what lag tools show.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from aiokafka import ConsumerRecord
from aiokafka import TopicPartition as Place
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from shared import kafka, logs
from shared.consumer.apply import BreakerError, DefinitionError, FencedError
from shared.credentials import AccessError, Stamp, addresses, faststream_security, stamp
from shared.errors import LeifengError, NewerVersionError
from shared.lifecycle import pause
from shared.metrics import Metrics
from shared.postgres import Gathered
from shared.settings import Servers

if TYPE_CHECKING:  # FastStream is a third of what a process loads at its start: only who subscribes pays for it.
    from faststream.kafka.message import KafkaMessage

RECORDS_MAX: Final = 500
FETCH_MILLISECONDS: Final = 2000
"""How long the broker holds a fetch that finds nothing: no delay, for it comes back with the first record. What is asked on the same
connection waits behind it, and so does a reader that is to look from another place."""
WAIT_MILLISECONDS: Final = 60_000
"""How long this process waits for a first record until it asks again: each time costs a turn, and nothing hangs on it."""
REST_MILLISECONDS: Final = 20
"""FastStream sleeps so long after a fetch that found nothing, and would wait no longer for one."""
COMMIT_SECONDS_MAX: Final = 1.0
TELL_SECONDS: Final = 1.0
"""How old the offset may be that Kafka knows: each commit is work for the broker, and after each small batch a tenth of a worker's own."""
CONNECT_SECONDS_MAX: Final = 20.0
CLOSE_SECONDS_MAX: Final = 6.0
GRACE_SECONDS: Final = 3.0
"""A batch under way at the end of the role may finish; what is cut off is rolled back and read again."""
RETRY_SECONDS_MAX: Final = 5.0
LOOK_AGAIN_SECONDS: Final = 5.0
LOOK_AGAIN_SECONDS_MAX: Final = 320.0
"""Each look from the start is followed by twice the pause, so that one through a long topic comes to its end."""
ACCESS_SECONDS: Final = 5.0
"""How often is looked at the files with password and certificates, and at what the cluster has said of the right to read."""

FINAL: Final = (FencedError, BreakerError, DefinitionError, NewerVersionError)
"""What trying again does not cure: the role is given up."""

T = TypeVar("T")
_log = logs.logger()
_quiet = logging.getLogger("faststream.shell")
_quiet.setLevel(logging.ERROR)  # Its one warning says at each connection that topics are not made by consumers, as is intended.


class StoppedError(LeifengError):
    """The role ended while something was being tried again."""


class Reader(Protocol):
    """Whoever reads a log through the shell: a Consumer's look-ups and views, or a service's reactions."""

    @property
    def name(self) -> str:
        """For logs and metrics: `views`, `inbox`, `reactions`, `withdrawals`."""

    async def begin(self) -> int:
        """Loads the position; the Kafka offset to begin at."""

    async def take(self, messages: Sequence[Any]) -> bool | None:
        """Takes what comes next; whether a gap is open at the end, None when these messages say nothing of it."""

    @property
    def position(self) -> int:
        """The position reached."""

    @property
    def offset(self) -> int:
        """The Kafka offset after it."""


async def insist(
    step: Callable[[], Awaitable[T]], stop: asyncio.Event, metrics: Metrics, cause: str, final: tuple[type[Exception], ...] = FINAL
) -> T:
    """Does `step`, again and again with growing pauses until it succeeds. Raises what is `final`, and StoppedError once `stop` is set."""
    seconds = 0.02
    while True:
        try:
            return await step()
        except final:
            raise
        except Exception as error:
            if stop.is_set():
                raise StoppedError from error
            metrics.retries_total.labels(cause).inc()
            _log.warning("trying_again", cause=cause, exc_info=error)
        await pause(stop, seconds * random.uniform(0.5, 1.0))  # noqa: S311
        seconds = min(2 * seconds, RETRY_SECONDS_MAX)


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Runs all; the first that raises ends the others, and is what is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def as_they_came(messages: tuple[ConsumerRecord, ...]) -> "KafkaMessage":
    """The parser: it looks at nothing, so no header can lose a batch (FastStream's own decodes headers before the handler: F4)."""
    from faststream.kafka.message import KafkaMessage

    return KafkaMessage(raw_message=messages, body=b"", consumer=_NOBODY)


async def undecoded(message: "KafkaMessage") -> Any:
    """The decoder: the records themselves."""
    return message.raw_message


class _Nobody:
    """In a message's place for a consumer: nothing is acknowledged through messages."""

    async def commit(self) -> None:
        return

    def seek(self, partition: Any, offset: int) -> None:  # noqa: ARG002
        return


_NOBODY: Final = _Nobody()


class Subscription:
    """One reader on one topic. `run` keeps it connected until `stop`; Kafka may be away at any time."""

    def __init__(self, reader: Reader, servers: Servers, topic: str, group_id: str, stop: asyncio.Event, metrics: Metrics) -> None:
        self._reader = reader
        self._servers = servers
        self._place = Place(topic, 0)
        self._group_id = group_id
        self._stop = stop
        self._metrics = metrics
        self._consumer: Any = None
        self._failed: asyncio.Future[Any]
        self._read_to = 0
        self._gap = False
        self._untold = asyncio.Event()
        self._reread_for: int | None = None
        self._ends = Gathered(self._ask_for_ends)

    async def run(self) -> None:
        """Returns on stop. Raises FencedError, BreakerError, NewerVersionError."""
        seconds = 0.2
        while not self._stop.is_set():
            try:
                await self._connected()
            except StoppedError:
                return
            except (KafkaError, OSError, TimeoutError) as error:
                reason = str(error) if isinstance(error, AccessError) else None
                _log.warning("kafka_is_away", consumer=self._reader.name, topic=self._place.topic, reason=reason, exc_info=error)
            await pause(self._stop, seconds)
            seconds = min(2 * seconds, RETRY_SECONDS_MAX)

    async def _connected(self) -> None:
        from faststream import AckPolicy
        from faststream.kafka import KafkaBroker, TopicPartition

        offset = await insist(self._reader.begin, self._stop, self._metrics, "begin")
        self._failed = asyncio.get_running_loop().create_future()
        made_with = stamp(self._servers)
        broker = KafkaBroker(
            addresses(self._servers).split(","),  # A list: FastStream takes one text for one address.
            security=faststream_security(self._servers),
            client_id=self._group_id,
            consumer_only=True,
            allow_auto_create_topics=False,
            ack_policy=AckPolicy.MANUAL,
            apply_types=False,
            graceful_timeout=GRACE_SECONDS,
            logger=_quiet,
            log_level=logging.DEBUG,
        )
        subscriber = broker.subscriber(
            partitions=[TopicPartition(self._place.topic, 0, declare=False)],
            group_id=self._group_id,
            batch=True,
            max_records=RECORDS_MAX,
            fetch_max_wait_ms=FETCH_MILLISECONDS,
            consumer_timeout_ms=kafka.LOOK_MILLISECONDS,
            batch_timeout_ms=REST_MILLISECONDS,
            auto_offset_reset="earliest",
            no_reply=True,
            parser=as_they_came,
            decoder=undecoded,
        )
        subscriber(self._handle)
        stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        looking: asyncio.Future[Any] | None = None
        changed: asyncio.Future[Any] | None = None
        telling: asyncio.Future[Any] | None = None
        try:
            starting = asyncio.ensure_future(self._start(broker))
            await asyncio.wait({starting, stopped}, timeout=CONNECT_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                with suppress(asyncio.CancelledError):
                    await starting
                if self._stop.is_set():
                    return
                raise TimeoutError("Kafka did not answer")
            starting.result()
            self._consumer = subscriber.consumer
            self._consumer.getmany = partial(self._fetch, kafka.passing_over(self._consumer, self._place))
            # No await since start(): the loop that reads has not turned yet. Were it otherwise, positions would still fence.
            self._consumer.seek(self._place, offset)
            self._read_to, self._gap = offset, False
            looking = asyncio.ensure_future(self._look_again())
            changed = asyncio.ensure_future(self._access_changed(made_with))
            telling = asyncio.ensure_future(self._keep_telling())
            await asyncio.wait([stopped, self._failed, looking, changed], return_when=asyncio.FIRST_COMPLETED)
            for each in (self._failed, changed):
                if each.done():
                    each.result()
        finally:
            stopped.cancel()
            for task in (looking, changed, telling):
                if task is not None:
                    task.cancel()
            await self._commit()
            self._consumer = None
            with suppress(KafkaError, OSError, TimeoutError, ExceptionGroup):
                await asyncio.wait_for(broker.stop(), CLOSE_SECONDS_MAX)
            if not self._failed.cancel():
                self._failed.exception()  # What was being tried when the role ended is no news; nobody else asks for it then.

    async def _start(self, broker: Any) -> None:
        async with kafka.saying_why(self._servers):
            await broker.start()

    async def _access_changed(self, made_with: Stamp) -> None:
        """Returns once a client would be told something else: this one goes on as long as its connections do, and no longer.

        Raises RightMissingError once the topic may not be seen any more: aiokafka (0.14) would wait for it without a word.
        """
        while not self._stop.is_set() and stamp(self._servers) == made_with:
            await pause(self._stop, ACCESS_SECONDS)
            kafka.check_may_read(self._consumer, self._place.topic)

    async def _fetch(self, getmany: kafka.Fetch, *, timeout_ms: int, max_records: int) -> Mapping[Place, Sequence[ConsumerRecord]]:
        try:
            return await getmany(timeout_ms=max(timeout_ms, WAIT_MILLISECONDS), max_records=max_records)
        except TopicAuthorizationFailedError as error:  # FastStream would go on asking, without a word.
            if not self._failed.done():
                self._failed.set_exception(error)
            raise

    async def _handle(self, messages: Any) -> None:
        """Never raises to FastStream, which would lose the batch without a word (F1)."""
        if self._failed.done() or self._stop.is_set() or self._consumer is None:
            return
        records: Sequence[ConsumerRecord] = messages
        try:
            gap = await insist(lambda: self._reader.take(records), self._stop, self._metrics, f"apply_{self._reader.name}")
        except Exception as error:  # noqa: BLE001
            if not self._failed.done():
                self._failed.set_exception(error)
            return
        self._read_to = records[-1].offset + 1
        self._gap = self._gap if gap is None else gap
        if gap and self._reread_for != self._reader.position:
            # The missing run may have been published again behind what is buffered, or before where we began: look from the start.
            self._reread_for = self._reader.position
            _log.error("gap_in_log", consumer=self._reader.name, topic=self._place.topic, position=self._reader.position)
            if self._consumer is not None:
                self._consumer.seek(self._place, 0)
        else:
            await self._tell_kafka()

    async def _look_again(self) -> None:
        """While a gap stays open, looks from the start now and then: the topic may be cut and published anew behind a look."""
        looked_for, seconds = self._reread_for, LOOK_AGAIN_SECONDS
        while True:
            await asyncio.sleep(seconds)
            if not self._gap or looked_for != self._reread_for:
                looked_for, seconds = self._reread_for, LOOK_AGAIN_SECONDS
                continue
            _log.warning("gap_still_open", consumer=self._reader.name, topic=self._place.topic, position=self._reader.position)
            self._consumer.seek(self._place, 0)
            seconds = min(2 * seconds, LOOK_AGAIN_SECONDS_MAX)

    async def _tell_kafka(self) -> None:
        """For lag tools only: soon enough, and a failure costs nothing."""
        self._untold.set()

    async def _keep_telling(self) -> None:
        while True:
            await self._untold.wait()
            await asyncio.sleep(TELL_SECONDS)
            await self._commit()

    async def _commit(self) -> None:
        if self._untold.is_set() and self._consumer is not None:
            self._untold.clear()
            with suppress(KafkaError, OSError, TimeoutError, AttributeError):
                await asyncio.wait_for(self._consumer.commit({self._place: self._reader.offset}), COMMIT_SECONDS_MAX)

    async def caught_up(self) -> None:
        """Until this reader has read to the end offset that the broker gives now. Raises StoppedError."""
        end = await insist(self._end_offset, self._stop, self._metrics, "end_offset")
        while self._read_to < end or self._gap:
            if await pause(self._stop, 0.02):
                raise StoppedError

    async def _end_offset(self) -> int:
        if self._consumer is None:
            raise TimeoutError("not connected")
        return await self._ends(self._place.topic)

    async def _ask_for_ends(self, topics: Sequence[str]) -> Sequence[int]:
        """By a client of its own: on the reader's connection the question would wait behind the fetch that the broker holds."""
        asking = await kafka.start_consumer(self._servers, f"{self._group_id}.end", self._place.topic)
        asking.pause(self._place)
        try:
            return [(await kafka.offsets(asking, each))[1] for each in topics]
        finally:
            await kafka.stop(asking)
