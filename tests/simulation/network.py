"""What stands between a process and its servers: every call takes a time of its own, and may be lost before or after its effect."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from tests.simulation.loop import Life, whose

T = TypeVar("T")

SECONDS_MEAN: Final = 0.004
DELAYED_SHARE: Final = 0.5
"""The other calls are through before anybody else moves."""
SLEEP_SECONDS_MAX: Final = 20.0
SLOW_SECONDS_MAX: Final = 9.0
"""Longer than any client of ours waits for an answer."""


@dataclass(frozen=True)
class Weather:
    """How likely each accident is at one call. A run has some of them and not others, so that none hides another."""

    lost_before: float = 0.0
    lost_after: float = 0.0
    slow: float = 0.0
    crash: float = 0.0
    sleep: float = 0.0

    @staticmethod
    def of(chance: random.Random) -> "Weather":
        """Drawn for one run."""
        return Weather(
            lost_before=chance.choice((0.0, 0.01, 0.03)),
            lost_after=chance.choice((0.0, 0.01, 0.03)),
            slow=chance.choice((0.0, 0.0, 0.004)),
            crash=chance.choice((0.0, 0.002, 0.006)),
            sleep=chance.choice((0.0, 0.0, 0.003)),
        )


class Network:
    """Carries calls. `happened` counts the accidents; `say` is for a trace."""

    def __init__(self, chance: random.Random, weather: Weather, say: Callable[[str], None]) -> None:
        self.chance = chance
        self.weather = weather
        self.happened = Counter[str]()
        self.calls = 0
        self.say = say
        self.kill: Callable[[Life], None] = Life.end

    async def call(self, what: str, effect: Callable[[], T] | Callable[[], Awaitable[T]], lost: Callable[[], Exception]) -> T:
        """Does `effect` on the server. Raises what it raises, or `lost()` when the caller does not get to know the outcome."""
        life = whose()
        assert life is not None
        await self._travel(life)
        if life.is_dead:
            raise lost()
        fate = self._fate()
        self.calls += 1
        self.say(f"{life.name:14} {what}{'' if fate is None else f'  -- {fate}'}")
        if fate is not None:
            self.happened[fate] += 1
        if fate == "sleeps":
            life.sleep(self.chance.uniform(0.5, SLEEP_SECONDS_MAX))
            await self._travel(life)
        if fate == "crashed before":
            self.kill(life)
            await asyncio.Event().wait()
        if fate == "lost before":
            raise lost()
        done = effect()
        result: T = await done if isinstance(done, Awaitable) else done
        if fate == "crashed after":
            self.kill(life)
            await asyncio.Event().wait()
        if fate == "lost after":
            raise lost()
        if fate == "slow":
            await asyncio.sleep(self.chance.uniform(0.0, SLOW_SECONDS_MAX))
        if life.sleeps_until > asyncio.get_running_loop().time() or self.chance.random() < 0.25:
            await self._travel(life)
        if life.is_dead:
            raise lost()
        return result

    async def _travel(self, life: Life) -> None:
        if self.chance.random() < DELAYED_SHARE:
            await asyncio.sleep(self.chance.expovariate(1 / SECONDS_MEAN))
        while not life.is_dead and (rest := life.sleeps_until - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110  # Sent to sleep again.
            await asyncio.sleep(rest)

    def _fate(self) -> str | None:
        """One draw for all: what becomes of this call."""
        drawn, weather = self.chance.random(), self.weather
        for fate, share in (
            ("lost before", weather.lost_before),
            ("lost after", weather.lost_after),
            ("slow", weather.slow),
            ("crashed before", weather.crash / 2),
            ("crashed after", weather.crash / 2),
            ("sleeps", weather.sleep),
        ):
            if drawn < share:
                return fate
            drawn -= share
        return None
