"""Which word of a log about itself counts, when the clocks of those who say it differ."""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from shared.consumer.heads import keep
from tests.integration.consumer.conftest import Base
from tests.integration.consumer.log import Message

NOW = datetime.now(UTC)
LOG_ID = str(uuid4())


async def heard(base: Base, head: int, time: datetime) -> tuple[int, datetime]:
    """What is held for the newest word after one more was read."""
    word = {"log_id": LOG_ID, "head": head, "sealed": head, "published": head, "chain_hash": "00" * 32, "time": time.isoformat()}
    await keep(base.pool, {"hours": [Message(0, [], json.dumps(word).encode())]})
    row = await base.pool.fetchrow("SELECT head, said_at FROM consumer.head WHERE log = 'hours'")
    assert row is not None
    return row["head"], row["said_at"]


async def test_an_older_word_that_is_read_again_does_not_count(base: Base) -> None:
    assert await heard(base, 5, NOW) == (5, NOW)
    assert await heard(base, 5, NOW - timedelta(seconds=2)) == (5, NOW)
    assert await heard(base, 4, NOW - timedelta(seconds=4)) == (5, NOW)


async def test_a_word_from_the_future_does_not_silence_the_log(base: Base) -> None:
    await heard(base, 5, NOW + timedelta(hours=1))
    assert await heard(base, 5, NOW) == (5, NOW)


async def test_a_relay_whose_clock_is_slow_is_heard_when_its_log_has_grown(base: Base) -> None:
    await heard(base, 5, NOW)
    slow = NOW - timedelta(minutes=10)
    assert await heard(base, 6, slow) == (6, slow)
