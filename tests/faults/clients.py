"""People who ask until they know: a command is repeated with the same key until it is answered, and every answer is kept."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import httpx

from tests.faults.system import System

KNOWN_WITHIN_S = 60.0
ANSWER_WITHIN_S = 5.0
"""Longer than this nobody waits for an answer, whatever happens to the database."""
IMPATIENT_S = (0.001, 0.006)
"""Some give up so early that nobody knows whether the command was heard."""
AGAIN_S = 0.05

NOT_DECIDED = frozenset({"store_unavailable", "not_caught_up", "stream_conflict", "too_many_requests"})
"""Answers that say: nothing is known yet, ask again."""


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


class Clients:
    """Everybody outside. `history` is all that was asked."""

    def __init__(self, system: System, seed: int, *, unit: str, impatient: float = 0.0) -> None:
        self.system = system
        self.history: list[Asked] = []
        self.unit = unit
        self.in_flight = Counter[str]()
        self.not_decided = Counter[str]()
        self.slowest = 0.0
        self._impatient = impatient
        self._random = random.Random(seed)
        self._http = httpx.AsyncClient(limits=httpx.Limits(max_connections=64, max_keepalive_connections=32))
        self._tokens: dict[tuple[str, str, str], tuple[float, str]] = {}

    async def close(self) -> None:
        await self._http.aclose()

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
        within: float = KNOWN_WITHIN_S,
    ) -> Asked:
        """One command, until it is known what became of it. `through` is the process to ask, the first api when none is named."""
        unit = "bureau" if role == "bureau_admin" else self.unit
        asked = Asked(service, (str(person), role, unit), path, body, uuid4().hex)
        await self._until_known(asked, after, through or f"{service}-api", within)
        self.history.append(asked)
        return asked

    async def again(self, asked: Asked, body: Mapping[str, Any] | None = None, within: float = KNOWN_WITHIN_S) -> Asked:
        """The same key once more, with another body if one is given."""
        repeat = Asked(asked.service, asked.who, asked.path, asked.body if body is None else body, asked.key)
        await self._until_known(repeat, (), f"{asked.service}-api", within)
        return repeat

    async def _until_known(self, asked: Asked, after: Sequence[str], through: str, within: float) -> None:
        end = monotonic() + within
        headers = {"Idempotency-Key": asked.key, **self.headers(asked.who), **({"After": ", ".join(after)} if after else {})}
        while True:
            assert monotonic() < end, f"{asked.path} is still unknown: {asked}"
            asked.attempts += 1
            hurried = asked.attempts == 1 and self._random.random() < self._impatient
            began = monotonic()
            self.in_flight[asked.service] += 1
            try:
                response = await self._http.post(
                    f"{self.system.url(through)}/api/v1{asked.path}",
                    json=dict(asked.body),
                    headers=headers,
                    timeout=self._random.uniform(*IMPATIENT_S) if hurried else ANSWER_WITHIN_S + 1,
                )
            except httpx.ConnectError:
                self.not_decided["nobody there"] += 1
            except httpx.TransportError as error:
                asked.unknown += 1
                self.not_decided[type(error).__name__] += 1
            else:
                self.slowest = max(self.slowest, monotonic() - began)
                said: dict[str, Any] = response.json()
                assert response.status_code != 500, said
                if said.get("code") not in NOT_DECIDED:
                    asked.status, asked.answer = response.status_code, said
                    asked.was_replayed = "idempotency-replayed" in response.headers
                    return
                assert "retry-after" in response.headers
                asked.unknown += said["code"] == "store_unavailable"
                self.not_decided[said["code"]] += 1
            finally:
                self.in_flight[asked.service] -= 1
            await asyncio.sleep(AGAIN_S)

    async def rows(
        self, service: str, path: str, *, after: Sequence[str] = (), within: float = KNOWN_WITHIN_S, **filters: str
    ) -> list[dict[str, Any]]:
        """All rows of a query as the bureau sees them, asked until it is answered."""
        end = monotonic() + within
        headers = {**self.headers(("局长甲", "bureau_admin", "bureau")), **({"After": ", ".join(after)} if after else {})}
        while True:
            try:
                response = await self._http.get(
                    f"{self.system.url(f'{service}-api')}/api/v1{path}",
                    params={**filters, "limit": "200"},
                    headers=headers,
                    timeout=ANSWER_WITHIN_S + 1,
                )
            except httpx.TransportError:
                pass
            else:
                if response.status_code == 200:
                    said: list[dict[str, Any]] = response.json()["items"]
                    assert len(said) < 200
                    return said
                assert response.status_code in {409, 503}, response.text
            assert monotonic() < end, f"{path} is not answered"
            await asyncio.sleep(AGAIN_S)
