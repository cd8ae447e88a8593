"""People who ask until they know: a command is repeated with the same key until it is answered, and every answer is kept."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4, uuid5

from deploy.local.environment import SERVICES
from deploy.local.keys import person_id
from tests.faults.system import System, until
from tests.faults.wire import CutOffError, NobodyThereError, Wire

KNOWN_WITHIN_S = 60.0
ANSWER_WITHIN_S = 5.0
"""Longer than this nobody waits for an answer, whatever happens to the database."""
IMPATIENT_S = (0.001, 0.006)
"""Some give up so early that nobody knows whether the command was heard."""
CUT_OFF = "cut off"
AT_ONCE = 10
"""How `not_decided` counts a connection that ended in the middle."""
AGAIN_S = (0.05, 0.5)
"""Between two attempts: at first, and at most."""
IN_FLIGHT_MAX = 16
"""So many commands of one service are asked at a time by people who keep a pace."""

SHUNNED_S = 4.0
"""For so long nobody goes to a process that did not answer, while there is another: what a balancer does."""

SAYS_WHEN = frozenset({"store_unavailable", "not_caught_up", "stream_conflict", "too_many_requests", "log_closed"})
"""Answers that say: nothing is known yet, ask again in a while."""
PARKED = frozenset({"record_parked", "registration_parked", "facts_parked"})
"""What this rests on is held back. Such an answer is not kept: once it is released, the same key is decided."""
NOT_DECIDED = SAYS_WHEN | PARKED | {"token_expired"}
"""A token expires early for a process whose clock goes wrong."""

OTHER_WORDS = {"title": "另一活动", "name": "钱小河", "position": "another", "served_on": "2017-01-01", "text_version": "2", "role": "ops"}
OTHER_ENDS = {"check-in": "check-out", "check-out": "check-in", "accept": "withdraw", "withdraw": "accept"}
"""What another request under the same key is made of: a word of its body, or the end of its address."""


@dataclass(slots=True)
class Asked:
    """A command and what became of it. `unknown`: attempts after which nobody could say."""

    service: str
    who: tuple[str, str, str]
    path: str
    body: Mapping[str, Any]
    key: str
    status: int = 0
    answer: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    unknown: int = 0
    was_replayed: bool = False
    began_at: float = 0.0
    answered_at: float = 0.0

    @property
    def command_id(self) -> UUID:
        """Of whoever asks, by the key: known before there is any answer."""
        return uuid5(person_id(self.who[0]), self.key)

    @property
    def actor(self) -> str:
        """As the log must name who asked."""
        return f"{self.who[1]}:{person_id(self.who[0])}"

    @property
    def accepted(self) -> bool:
        return self.status == 200

    @property
    def code(self) -> str:
        """Of a refusal."""
        return str(self.answer.get("code", ""))

    @property
    def types(self) -> list[str]:
        """What happened, in short: `enrollment_accepted`."""
        return [each["type"].partition(".")[2] for each in self.answer.get("events", ())]

    @property
    def position(self) -> int:
        """Of the first event."""
        return int(self.answer["events"][0]["position"])

    @property
    def token(self) -> str:
        """What a later request may send as `After`."""
        return str(self.answer["position"])


@dataclass(frozen=True, slots=True)
class Seen:
    """What a query showed: its rows, as of which positions (tokens), and which of its keys were parked."""

    rows: list[dict[str, Any]]
    tokens: tuple[str, ...]
    parked: frozenset[str]


class Pace:
    """Lets so many pass in a second, some at once; who was held up is not made up for.

    At once, so that appends, pages and batches hold several events: with one in each, two cores do half as much.
    """

    def __init__(self, per_second: float) -> None:
        self._apart = AT_ONCE / per_second
        self._next = 0.0
        self._left = 0

    async def turn(self) -> None:
        """Waits for the next turn."""
        now = monotonic()
        if self._left == 0:
            self._next, self._left = max(self._next + self._apart, now), AT_ONCE
        self._left -= 1
        await asyncio.sleep(max(self._next - now, 0))


class Clients:
    """Everybody outside. `history` is all that was asked and answered, `asked` all that was ever asked, by command id."""

    def __init__(
        self,
        system: System,
        seed: int,
        *,
        unit: str,
        impatient: float = 0.0,
        mischief: float = 0.0,
        per_second: float | None = None,
        patience: float = KNOWN_WITHIN_S,
    ) -> None:
        """`impatient` and `mischief` are shares of the commands: given up early, and followed by what nobody should do."""
        self.system = system
        self.history: list[Asked] = []
        self.asked: dict[UUID, Asked] = {}
        self.answered = Counter[str]()
        self.open: dict[UUID, Asked] = {}
        """Asked and not answered yet."""
        self.going_on = asyncio.Event()
        """While it is not set, nobody asks for anything new."""
        self.going_on.set()
        self.unit = unit
        self.in_flight = Counter[str]()
        self.not_decided = Counter[str]()
        self.misdeeds = Counter[str]()
        self.slowest = 0.0
        self._impatient = impatient
        self._mischief = mischief
        self.patience = patience
        self._pace = None if per_second is None else Pace(per_second)
        self._turns = {service: asyncio.Semaphore(IN_FLIGHT_MAX) for service in SERVICES}
        self._random = random.Random(seed)
        self._wire = Wire()
        self._tokens: dict[tuple[str, str, str], tuple[float, str]] = {}
        self._shunned: dict[str, float] = {}

    async def close(self) -> None:
        self._wire.close()

    @property
    def accepted(self) -> list[Asked]:
        return [each for each in self.history if each.accepted]

    def headers(self, who: tuple[str, str, str]) -> dict[str, str]:
        """The bearer token of a person in a role for a unit."""
        made, token = self._tokens.get(who, (0.0, ""))
        if monotonic() - made > 300 or not token:
            token = self.system.token(*who)
            self._tokens[who] = (monotonic(), token)
        return {"Authorization": token}

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """For the time of a block nobody asks for anything new, and what was asked before, also what waited for its turn, is known."""
        self.going_on.clear()
        try:
            await until(lambda: not self.open, KNOWN_WITHIN_S, "an answer to what was asked")
            yield
        finally:
            self.going_on.set()

    def sign_in_again(self) -> None:
        """Everybody takes a new token before they ask for anything more."""
        self._tokens.clear()

    async def ask(
        self,
        service: str,
        person: str | UUID,
        role: str,
        path: str,
        body: Mapping[str, Any],
        *,
        after: Sequence[str] = (),
        through: str | None = None,
        within: float | None = None,
        unit: str | None = None,
        if_match: int | None = None,
    ) -> Asked:
        """One command, until it is known what became of it. `through` is the process to ask, any api when none is named."""
        await self.going_on.wait()
        unit = "bureau" if role == "bureau_admin" else unit or self.unit
        asked = Asked(service, (str(person), role, unit), path, body, uuid4().hex)
        self.asked[asked.command_id] = self.open[asked.command_id] = asked
        alike = [asked, replace(asked)] if self._random.random() < self._mischief / 4 else [asked]
        async with self._turns[service] if self._pace else nullcontext():
            if self._pace:
                await self._pace.turn()
            await asyncio.gather(*(self._until_known(each, after, through, within, if_match) for each in alike))
        self._is_known(asked)
        for twin in alike[1:]:
            self._is_the_same(asked, twin, "asked twice at once")
        if self._random.random() < self._mischief:
            await self._misbehave(asked)
        return asked

    def _is_known(self, asked: Asked) -> None:
        self.history.append(asked)
        self.answered[asked.service] += 1
        del self.open[asked.command_id]

    async def again(
        self, asked: Asked, body: Mapping[str, Any] | None = None, path: str | None = None, within: float | None = None
    ) -> Asked:
        """The same key once more, with another body or at another address if one is given."""
        repeat = Asked(asked.service, asked.who, path or asked.path, asked.body if body is None else body, asked.key)
        await self._until_known(repeat, (), None, within)
        return repeat

    async def retry(self, asked: Asked) -> None:
        """The same key once more: the answer is the same (I3)."""
        self._is_the_same(asked, await self.again(asked), "retry of what is known")

    async def _misbehave(self, asked: Asked) -> None:
        """A retry of what is known, the key used for something else, or an older version of what was just changed (I3)."""
        deed = self._random.choice(("retry", "retry", "other body", "stale version"))
        if deed == "stale version" and asked.types and asked.path != "/activities":  # Each publication begins a stream of its own.
            stale = await self._stale(asked)
            assert (stale.status, stale.code) == (412, "version_stale"), stale
            self.misdeeds["stale version"] += 1
        elif deed == "other body" and "command_id" in asked.answer and (other := another(asked)) is not None:
            path, body = other
            refused = await self.again(asked, body, path)
            assert (refused.status, refused.code) == (422, "idempotency_key_reused"), refused
            self.misdeeds["key used again"] += 1
        elif "command_id" in asked.answer:
            await self.retry(asked)

    async def _stale(self, asked: Asked) -> Asked:
        stale = Asked(asked.service, asked.who, asked.path, asked.body, uuid4().hex)
        self.asked[stale.command_id] = self.open[stale.command_id] = stale
        await self._until_known(stale, (), None, None, 0)
        self._is_known(stale)
        return stale

    def _is_the_same(self, asked: Asked, repeat: Asked, deed: str) -> None:
        assert (repeat.status, repeat.answer) == (asked.status, asked.answer), f"{deed}: {asked} was answered {repeat}"
        self.misdeeds[deed] += 1

    def _door(self, service: str) -> str:
        """An api of the service that is there, as far as one knows."""
        doors = [name for name in self.system.processes if name.startswith(f"{service}-api")]
        good = [name for name in doors if self._shunned.get(name, 0.0) < monotonic()]
        return self._random.choice(good or doors or [f"{service}-api"])

    async def _until_known(
        self, asked: Asked, after: Sequence[str], through: str | None, within: float | None, if_match: int | None = None
    ) -> None:
        asked.began_at = monotonic()
        end = asked.began_at + (self.patience if within is None else within)
        headers = {"Idempotency-Key": asked.key}
        headers |= {"After": ", ".join(after)} if after else {}
        headers |= {} if if_match is None else {"If-Match": f'"{if_match}"'}
        while True:
            assert monotonic() < end, f"{asked.path} is still unknown: {asked}"
            asked.attempts += 1
            hurried = asked.attempts == 1 and self._random.random() < self._impatient
            began, door = monotonic(), through or self._door(asked.service)
            self.in_flight[asked.service] += 1
            try:
                reply = await self._wire.ask(
                    "POST",
                    f"{self.system.url(door)}/api/v1{asked.path}",
                    headers | self.headers(asked.who),
                    json.dumps(dict(asked.body)).encode(),
                    self._random.uniform(*IMPATIENT_S) if hurried else ANSWER_WITHIN_S + 1,
                )
            except NobodyThereError:
                self._shun(door)
                self.not_decided["nobody there"] += 1
            except (CutOffError, TimeoutError) as error:
                if not hurried:
                    self._shun(door)
                asked.unknown += 1
                self.not_decided[CUT_OFF if isinstance(error, CutOffError) else "no answer"] += 1
            else:
                self.slowest = max(self.slowest, monotonic() - began)
                said: dict[str, Any] = json.loads(reply.body)
                assert reply.status != 500, said
                if said.get("code") not in NOT_DECIDED:
                    asked.status, asked.answer, asked.answered_at = reply.status, said, monotonic()
                    asked.was_replayed = bool(reply.header("idempotency-replayed"))
                    return
                assert said["code"] not in SAYS_WHEN or reply.header("retry-after")
                asked.unknown += said["code"] == "store_unavailable"
                self.not_decided[said["code"]] += 1
            finally:
                self.in_flight[asked.service] -= 1
            await asyncio.sleep(min(AGAIN_S[0] * 2 ** min(asked.attempts - 1, 8), AGAIN_S[1]))

    def _shun(self, door: str) -> None:
        self._shunned[door] = monotonic() + SHUNNED_S

    async def read(
        self,
        service: str,
        path: str,
        *,
        after: Sequence[str] = (),
        **filters: str,
    ) -> Seen:
        """A query, asked until it is answered."""
        end = monotonic() + self.patience
        headers = {"After": ", ".join(after)} if after else {}
        while True:
            door = self._door(service)
            try:
                reply = await self._wire.ask(
                    "GET",
                    f"{self.system.url(door)}/api/v1{path}?{urlencode({**filters, 'limit': '200'})}",
                    headers | self.headers(("局长甲", "bureau_admin", "bureau")),
                    b"",
                    ANSWER_WITHIN_S + 1,
                )
            except (NobodyThereError, CutOffError, TimeoutError):
                self._shun(door)
            else:
                said = json.loads(reply.body)
                if reply.status == 200:
                    return Seen(said["items"], tuple(reply.header("position")), frozenset(said["parked"]))
                assert reply.status in {409, 503} or said["code"] == "token_expired", said
            assert monotonic() < end, f"{path} is not answered"
            await asyncio.sleep(AGAIN_S[1])

    async def rows(self, service: str, path: str, *, after: Sequence[str] = (), **filters: str) -> list[dict[str, Any]]:
        """All rows of a query as the bureau sees them."""
        seen = await self.read(service, path, after=after, **filters)
        assert len(seen.rows) < 200
        return seen.rows


def another(asked: Asked) -> tuple[str, Mapping[str, Any]] | None:
    """Address and body of another request that would be in order, if one is easily made of this one."""
    for word, other in OTHER_WORDS.items():
        if word in asked.body:
            return asked.path, {**asked.body, word: other}
    before, _, end = asked.path.rpartition("/")
    if end in OTHER_ENDS and before.startswith("/activities/"):
        return f"{before}/{OTHER_ENDS[end]}", asked.body
    return (asked.path, {"stars": 1}) if end == "stars" and not asked.body else None
