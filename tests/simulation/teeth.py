"""The product, broken on purpose: each tooth is a promise taken out of the code that runs, and the simulation has to notice.

Nothing is patched in files: for the time of a block a function of the product is another one.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final, cast
from uuid import UUID, uuid5

from shared import deadlines, ids
from shared.consumer import apply, inbox
from shared.consumer.apply import Consumer, Entry, Place, Run
from shared.consumer.inbox import Reactor
from shared.contracts.event import Refusal
from shared.envelope import record_of
from shared.errors import EnvelopeError
from shared.eventstore.submit import Commands, Submit
from shared.eventstore.values import Answer
from shared.relay.readback import ReadBack
from shared.relay.shell import PAGE_EVENTS_MAX, Relay
from shared.relay.steps import chained
from tests.simulation import database
from tests.simulation.database import Row, Session
from tests.simulation.world import World


@contextlib.contextmanager
def instead(owner: Any, **others: Any) -> Iterator[None]:
    """For this block attributes of `owner` are others."""
    kept = {name: getattr(owner, name) for name in others}
    for name, other in others.items():
        setattr(owner, name, other)
    try:
        yield
    finally:
        for name, was in kept.items():
            setattr(owner, name, was)


def _published_before_sealed() -> AbstractContextManager[None]:
    seal = Relay._seal

    async def broken(self: Relay, seen: Any) -> None:
        await self._publish(chained(seen.sealed, await self._store.read_page(seen.sealed.position, PAGE_EVENTS_MAX)))
        await seal(self, seen)

    return instead(Relay, _seal=broken)


def _never_read_back() -> AbstractContextManager[None]:
    async def broken(_self: ReadBack, _consumer: Any, place: Any, _published: Any) -> Any:
        return place

    return instead(ReadBack, _pass=broken)


def _any_later_record_applied() -> AbstractContextManager[None]:
    def broken(source: str, place: Place, messages: Sequence[Any]) -> Run:
        run = Run()
        for message in messages:
            with contextlib.suppress(EnvelopeError):
                record = record_of(message.headers, message.value)
                if record.service == source and record.position > place.position:
                    digest = bytes.fromhex(dict(message.headers)["ce_chainhash"].decode())
                    place = Place(record.log_id, record.position, digest, message.offset + 1, record.time)
                    run.entries.append(Entry(record, message.headers, place))
        run.gap = False
        return run

    @contextlib.contextmanager
    def both() -> Iterator[None]:
        with instead(apply, follow=broken), instead(inbox, follow=broken):
            yield

    return both()


def _nothing_compared_when_a_position_is_set() -> AbstractContextManager[None]:
    async def move(
        session: Session, consumer: str, log: str, log_id: UUID, to: int, digest: bytes, offset: int, time: Any, *_: Any
    ) -> list[Row]:
        row = await session.lock("position", consumer, log)
        assert row is not None
        changed = {"log_id": log_id, "applied": to, "applied_hash": digest, "kafka_offset": offset, "ce_time": time}
        await session.put({**row, **changed}, "position", consumer, log)
        return [{"applied": to}]

    return instead(database, STATEMENTS={**database.STATEMENTS, apply._MOVE: move})


def _position_committed_before_its_effect() -> AbstractContextManager[None]:
    whole = Consumer._apply

    async def broken(self: Consumer, connection: Any, run: Run, reads: Sequence[Any], place: Place) -> tuple[int, int]:
        async with self._pool.acquire(timeout=1.0) as first, first.transaction():
            await whole(self, first, run, (), place)
        return await _effects(self, connection, reads), 0

    return instead(Consumer, _apply=broken)


async def _effects(consumer: Consumer, connection: Any, reads: Sequence[Any]) -> int:
    part = consumer.part
    blocked = await apply.blocked_keys(connection, part, [each.entry for each in reads])
    batch = apply._Batch(part, connection, blocked)
    await batch.apply(reads)
    await apply.park(connection, part.consumer, "applied", batch.parks, blocks=part.blocks)
    return len(batch.parks)


def _message_parked_and_not_its_key() -> AbstractContextManager[None]:
    parts = World.parts

    def broken(self: World, consumer: str) -> Sequence[apply.Part]:
        return [replace(each, blocks=False) for each in parts(self, consumer)]

    return instead(World, parts=broken)


def _key_free_again_in_the_next_batch() -> AbstractContextManager[None]:
    async def nothing(*_: Any) -> set[str]:
        return set()

    return instead(apply, blocked_keys=nothing)


def _skipped_when_live() -> AbstractContextManager[None]:
    return instead(apply._Batch, _park=lambda _self, _read, _why: None)


def _reactions_moved_before_their_answers() -> AbstractContextManager[None]:
    send, sent = Reactor._send, set[asyncio.Task[None]]()

    async def broken(self: Reactor[Any], *given: Any) -> None:
        task = asyncio.get_running_loop().create_task(send(self, *given))
        sent.add(task)
        task.add_done_callback(sent.discard)

    return instead(Reactor, _send=broken)


def _reactions_named_anew_each_time() -> AbstractContextManager[None]:
    count = iter(range(10**9))
    return instead(ids, reaction_command_id=lambda _name, index, event: uuid5(event, f"{next(count)}/{index}"))


def _deadlines_named_anew_each_time() -> AbstractContextManager[None]:
    count = iter(range(10**9))
    return instead(ids, deadline_command_id=lambda _name, event: uuid5(event, str(next(count))))


def _deadline_forgotten_before_it_is_answered() -> AbstractContextManager[None]:
    async def broken(pool: Any, consumers: Any, submit: Any, row: Any, now: Any) -> None:
        await pool.execute(
            "DELETE FROM consumer.deadline WHERE name = $1 AND key = $2 AND set_by = $3", row["name"], row["key"], row["set_by"]
        )
        await fire(pool, consumers, submit, row, now)

    fire = deadlines._fire
    return instead(deadlines, _fire=broken)


def _deadline_asked_at_another_now() -> AbstractContextManager[None]:
    fire = deadlines._fire

    async def broken(pool: Any, consumers: Any, submit: Any, row: Any, now: Any) -> None:
        def without_now(*given: Any, not_before: Any, **named: Any) -> Any:
            return submit(*given, **named)

        await fire(pool, consumers, cast("Submit", without_now), row, now)

    return instead(deadlines, _fire=broken)


def _refused_out_of_memory() -> AbstractContextManager[None]:
    append = Commands._append

    async def broken(self: Commands[Any], plan: Any, loaded: Any, decided: Any, asking: Any) -> Answer | None:
        if isinstance(decided, Refusal):
            head = await self._store.head()
            return Answer(asking.command_id, "refused", head.position, 0, decided, repeated=False)
        return await append(self, plan, loaded, decided, asking)

    return instead(Commands, _append=broken)


def _command_named_anew_at_each_try() -> AbstractContextManager[None]:
    submit, count = Commands.submit, iter(range(10**9))

    async def broken(self: Commands[Any], *given: Any, command_id: UUID, **named: Any) -> Answer:
        return await submit(self, *given, command_id=uuid5(command_id, str(next(count))), **named)

    return instead(Commands, submit=broken)


TEETH: Final[dict[str, Callable[[], AbstractContextManager[None]]]] = {
    each.__name__.strip("_").replace("_", " "): each
    for each in (
        _published_before_sealed,
        _never_read_back,
        _any_later_record_applied,
        _nothing_compared_when_a_position_is_set,
        _position_committed_before_its_effect,
        _message_parked_and_not_its_key,
        _key_free_again_in_the_next_batch,
        _skipped_when_live,
        _reactions_moved_before_their_answers,
        _reactions_named_anew_each_time,
        _deadlines_named_anew_each_time,
        _deadline_forgotten_before_it_is_answered,
        _deadline_asked_at_another_now,
        _refused_out_of_memory,
        _command_named_anew_at_each_try,
    )
}
"""What is broken, and the block in which it is."""
