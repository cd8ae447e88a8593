"""A service that counts on command: real store, real `submit`, and reactions and deadlines that submit to it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from shared.application import Aggregate, Asked, Claims, Command, Plan, UseCase
from shared.clock import system_clock
from shared.consumer import Kafka, Setting
from shared.consumer.apply import Consumer, Part
from shared.consumer.inbox import Reactor
from shared.consumer.values import Consumers, Fact, Reaction, no_deadlines
from shared.contracts.event import Event, Refusal
from shared.envelope import Stream
from shared.errors import InvariantError
from shared.eventstore.store import PostgresStore, ensure_log, open_store
from shared.eventstore.submit import Commands, Submit
from shared.postgres import Pool, connect
from tests.integration.consumer.conftest import Base
from tests.integration.consumer.log import CODEC, Counted, part

SERVICE = "recognition"
ONE_STREAM = UUID("0197f3a4-5c00-7000-8000-000000000077")


class Number(BaseModel):
    """The body of a command."""

    number: int


async def _plan(asked: Asked[Number], _look_ups: Any) -> Plan[int]:
    def decide(state: int) -> Sequence[Event] | Refusal:
        return Refusal("too_many") if asked.body.number > 1000 else [Counted(number=asked.body.number)]

    return Plan(Stream("star_policy", ONE_STREAM), Aggregate("star_policy", 0, lambda state, event: state + 1), decide)


COUNT: UseCase[Number, Any] = UseCase("count", None, Number, frozenset(), _plan, ("too_many",), "计数", "Count")


async def _echo(fact: Fact, _look_ups: Any, _lack_is_fact: bool) -> Sequence[Command]:
    """Two commands for each event, and none of fourteen."""
    assert isinstance(fact.event, Counted)
    if fact.event.number == 14:
        raise InvariantError("fourteen")
    return [Command(COUNT, Number(number=fact.event.number)), Command(COUNT, Number(number=-fact.event.number))]


ECHO: Reaction[Any] = Reaction("echo", "seats", frozenset({Counted.TYPE}), _echo)


@dataclass
class Deciding:
    """The parts of a running service."""

    base: Base
    store: PostgresStore
    commands: Commands[Any]
    setting: Setting

    def reactor(
        self,
        submit: Submit | None = None,
        caught_up: Callable[[str], Awaitable[None]] | None = None,
        each: Part | None = None,
        stop: asyncio.Event | None = None,
    ) -> Reactor[Any]:
        """The reactions to `seats`."""

        async def at_once(_source: str) -> None:
            return

        return Reactor(
            each or part(), self.setting, submit or self.commands.submit, self.base.pool, caught_up or at_once, stop or asyncio.Event()
        )

    async def look_ups(self, each: Part | None = None) -> Consumer:
        """The look-ups of `seats`."""
        made = Consumer(each or part(), self.base.pool, self.base.metrics)
        await made.begin()
        return made

    async def counted(self) -> list[int]:
        """What commands have counted, in order."""
        return [int(number) for number in await self.numbers(self.base.pool)]

    @staticmethod
    async def numbers(pool: Pool) -> list[int]:
        """The numbers in the service's own log."""
        rows = await pool.fetch("SELECT convert_from(payload, 'UTF8')::jsonb ->> 'number' AS number FROM es.event ORDER BY position")
        return [int(row["number"]) for row in rows]


async def decide(
    base: Base,
    reactions: Sequence[Reaction[Any]] = (ECHO,),
    servers: str = "",
    prefix: str = "",
    clock: Literal["system", "travel"] = "system",
) -> Deciding:
    """A service on `base`. Its log has `clock`; `submit` has the machine's."""
    connection = await connect(base.dsn, "migrate")
    await ensure_log(connection, SERVICE, clock)
    await connection.close()
    store = await open_store(base.pool, SERVICE, base.metrics)
    claims = Claims(lambda _event, _blind: ((), ()), {})
    commands = Commands[Any](store, CODEC, base.keys, base.pool, claims, system_clock, base.metrics)
    consumers: Consumers[Any] = Consumers(
        service=SERVICE, projections=(), look_ups=(), deadlines=no_deadlines, reactions=reactions, use_cases={COUNT.name: COUNT}
    )
    setting = Setting(consumers=consumers, pool=base.pool, kafka=Kafka(servers, prefix), codec=CODEC, keys=base.keys, metrics=base.metrics)
    return Deciding(base, store, commands, setting)
