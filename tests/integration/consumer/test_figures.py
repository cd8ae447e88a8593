"""Two services count of one log at the same position, or not at all; what differs there is shown."""

import json
from time import time
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.consumer import figures
from shared.consumer.figures import Reconciliation, compare
from shared.consumer.heads import Counted
from shared.consumer.schema import definition_hash
from shared.consumer.values import Consumers, Figure, no_deadlines
from shared.postgres import connect
from tests.integration.consumer.conftest import Base

LOG = UUID("0197f3a4-5c00-7000-8000-00000000f190")
READ = Figure("tally", "seats", "inbox", "SELECT key, sum(number) FROM lookup.tally GROUP BY key")
OWN = Figure("things", "hours", "views", "SELECT name, amount FROM thing")


def consumers(*counted: Figure) -> Consumers[Any]:
    return Consumers(service="hours", projections=(), look_ups=(), deadlines=no_deadlines, reactions=(), use_cases={}, figures=counted)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look counts again."""
    monkeypatch.setattr(figures, "AGAIN_SECONDS", 0.0)


class Reader:
    """Hours, which reads `seats`; what `seats` says of itself is told by the test."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.work = Reconciliation(base.pool, consumers(READ), base.metrics)
        self.log_id = LOG

    async def stands_at(self, position: int, **tally: int) -> None:
        """Look-ups that were written up to `position`."""
        await self.base.pool.execute("DELETE FROM lookup.tally")
        for number, (key, amount) in enumerate(tally.items()):
            await self.base.pool.execute("INSERT INTO lookup.tally (position, key, number) VALUES ($1, $2, $3)", number, key, amount)
        await self.base.pool.execute(
            "INSERT INTO consumer.position (consumer, log, log_id, applied) VALUES ('inbox', 'seats', $1, $2) "
            "ON CONFLICT (consumer, log) DO UPDATE SET applied = excluded.applied",
            LOG, position,
        )  # fmt: skip

    async def is_told(self, said: Counted | None) -> None:
        """The owner's word."""
        told = {} if said is None else {"tally": said.model_dump()}
        await self.base.pool.execute(
            "INSERT INTO consumer.head (log, log_id, head, sealed, published, chain_hash, said_at, figures) "
            "VALUES ('seats', $1, 9, 9, 9, '', now(), $2::jsonb) "
            "ON CONFLICT (log) DO UPDATE SET log_id = excluded.log_id, figures = excluded.figures",
            self.log_id, json.dumps(told),
        )  # fmt: skip

    async def counts(self) -> Counted:
        """What is counted here now."""
        (compared,) = await compare(self.base.pool, consumers(READ))
        assert compared.here is not None
        return compared.here

    async def why_not(self) -> str | None:
        """Why nothing is compared."""
        (compared,) = await compare(self.base.pool, consumers(READ))
        assert compared.difference is None
        return compared.place.hindered

    def shown(self) -> float | None:
        """The difference by the metrics; None while there is none."""
        samples = [each for family in self.base.metrics.reconciliation_difference.collect() for each in family.samples]
        return samples[0].value if samples else None


@pytest.fixture
def reader(base: Base, at_once: None) -> Reader:
    return Reader(base)


async def test_what_is_the_same_at_the_same_position_is_shown_as_the_same_and_when(reader: Reader) -> None:
    shown_at = reader.base.metrics.reconciliation_timestamp_seconds.labels("tally", "seats")
    assert time() - shown_at._value.get() < 5, "until it is compared, the start of the process stands there"
    shown_at.set(0)
    await reader.stands_at(7, a=3, b=4)
    await reader.is_told(await reader.counts())
    await reader.work.look()
    assert (reader.shown(), await reader.counts()) == (0, Counted(position=7, total=7, digest=(await reader.counts()).digest))
    assert time() - shown_at._value.get() < 5


async def test_a_sum_that_is_off_is_shown_and_goes_when_it_is_put_right(reader: Reader) -> None:
    await reader.stands_at(7, a=3, b=4)
    await reader.is_told(await reader.counts())
    await reader.stands_at(7, a=3, b=2)
    await reader.work.look()
    assert reader.shown() == 2
    await reader.stands_at(7, a=3, b=4)
    await reader.work.look()
    assert reader.shown() == 0


async def test_a_sum_that_is_made_up_of_others_is_a_difference_of_one(reader: Reader) -> None:
    await reader.stands_at(7, a=3, b=4)
    await reader.is_told(await reader.counts())
    await reader.stands_at(7, a=4, b=3)
    await reader.work.look()
    assert reader.shown() == 1
    await reader.stands_at(7, b=4, a=3, c=0)
    await reader.work.look()
    assert reader.shown() == 0, "neither the order nor a row of nothing matters"


async def test_nothing_is_compared_that_is_under_way(reader: Reader) -> None:
    await reader.stands_at(7, a=3)
    said = await reader.counts()
    await reader.is_told(said)
    await reader.stands_at(8, a=5)
    await reader.work.look()
    assert (reader.shown(), await reader.why_not()) == (None, "here at position 8, there counted at 7")
    await reader.is_told(None)
    await reader.work.look()
    assert reader.shown() is None
    assert "seats has not counted" in str(await reader.why_not())


async def test_nothing_is_compared_with_what_waits_behind_a_parked_key_or_with_another_log(reader: Reader) -> None:
    await reader.stands_at(7, a=3)
    await reader.is_told(await reader.counts())
    await reader.stands_at(7, a=2)
    await reader.base.pool.execute("INSERT INTO consumer.blocked VALUES ('inbox', 'seats', 'applied', 'a', 'PayloadError')")
    await reader.work.look()
    assert (reader.shown(), await reader.why_not()) == (None, "1 keys are parked")
    await reader.base.pool.execute("DELETE FROM consumer.blocked")
    reader.log_id = uuid4()
    await reader.is_told(await reader.counts())
    await reader.work.look()
    assert (reader.shown(), await reader.why_not()) == (None, "it is another log than was read")


async def test_a_log_s_owner_speaks_of_it_while_it_rests_and_counts_again_what_was_changed_by_hand(base: Base, at_once: None) -> None:
    owner = await connect(base.dsn, "owner")
    await owner.execute("CREATE SCHEMA views_1; CREATE TABLE views_1.thing AS SELECT 'a' AS name, 2 AS amount")
    await owner.execute(base.roles.fill_in('GRANT USAGE ON SCHEMA views_1 TO :"app"; GRANT SELECT ON views_1.thing TO :"app"'))
    await owner.execute("INSERT INTO consumer.views (schema, definition_hash, live) VALUES ('views_1', $1, true)", definition_hash(()))
    await owner.execute("INSERT INTO consumer.position (consumer, log, log_id, applied) VALUES ('views', 'hours', $1, 5)", LOG)
    work = Reconciliation(base.pool, consumers(OWN), base.metrics)
    await work.look()
    assert work.said() == {}, "it may be moving"
    await work.look()
    assert {name: (said["position"], said["total"]) for name, said in work.said().items()} == {"things": (5, 2)}
    await owner.execute("UPDATE views_1.thing SET amount = 3")
    await work.look()
    assert work.said()["things"]["total"] == 3
    await owner.execute("UPDATE consumer.position SET applied = 6")
    await work.look()
    assert work.said() == {}
    await work.look()
    assert work.said()["things"]["position"] == 6
    await owner.execute("UPDATE consumer.views SET definition_hash = 'other'")
    await work.look()
    assert work.said() == {}, "what other code has built may be anything"
    await owner.close()
