"""What an api process is made of, as one value that a service's `main` fills in."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from starlette.datastructures import Headers
from starlette.requests import Request

from shared.application import UseCase
from shared.contracts.event import Event, RefusalText
from shared.eventstore.submit import Submit
from shared.eventstore.values import EventStore
from shared.http.door import ROLE_CODES, Door
from shared.http.forms import Forms
from shared.http.positions import PositionToken
from shared.http.problems import ProblemError
from shared.http.query import Query, Views
from shared.http.rates import Rates
from shared.http.signin import TOKEN_COOKIE, SignIn
from shared.metrics import Metrics
from shared.permissions import Actor, Role

COMMANDS_IN_FLIGHT_MAX: Final = 200
"""Commands under way in one process; the next one is told to come back (429)."""


class Waits(Protocol):
    """Waiting for what a caller has seen elsewhere. Raises NotCaughtUpError, and ProblemError `after_foreign_log` for another log."""

    async def for_lookups(self, tokens: Sequence[PositionToken], within_seconds: float) -> None:
        """Until the service's inbox has applied every token."""

    async def for_views(self, tokens: Sequence[PositionToken], within_seconds: float) -> Mapping[str, int]:
        """Until the service's views have, tokens of other services followed through; the positions by source that a read must show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """Everything that `build_app` turns into routes, documents and pages.

    `submit` is None and `use_cases` empty for a process that only reads. `imports` names the use cases that take a file's content and so
    a larger body. `fingerprint_key` keys the hash that tells a repeated body from another one. `events` are the service's contracts.
    `forms` reads what pages send; `sign_in` is there where people sign in, `signs_in` the sibling where they do otherwise.
    """

    service: str
    title_zh: str
    title_en: str
    version: str
    use_cases: Sequence[UseCase[Any, Any]]
    refusals: Mapping[str, RefusalText]
    queries: Sequence[Query]
    events: Sequence[type[Event]]
    submit: Submit
    store: EventStore
    views: Views
    waits: Waits
    door: Door
    ready: Callable[[], Awaitable[bool]]
    now: Callable[[], Awaitable[datetime]]
    fingerprint_key: bytes = field(repr=False)
    metrics: Metrics
    siblings: Mapping[str, str] = field(default_factory=dict)
    topic_prefix: str = ""
    imports: frozenset[str] = frozenset()
    commands_in_flight_max: int = COMMANDS_IN_FLIGHT_MAX
    forms: Forms
    rates: Rates = field(default_factory=Rates)
    sign_in: SignIn | None = None
    signs_in: str = ""

    async def asker(self, request: Request, roles: frozenset[Role]) -> Actor:
        """Who asks, when the token and the role allow it. Raises ProblemError (400, 401, 403, 429)."""
        actor = await self.door.actor(request.headers, roles, self.rates.source_of(request.scope))
        self.rates.person(actor.person_id)
        return actor

    async def visitor(self, request: Request, roles: frozenset[Role]) -> Actor:
        """Who visits a page that only `roles` may see. Raises ProblemError (401, 403)."""
        token = self.forms.cookie(request, TOKEN_COOKIE)
        if not token:
            raise ProblemError("sign_in_needed")
        try:
            return await self.door.actor(Headers({"authorization": f"Bearer {token}"}), roles)
        except ProblemError as problem:
            if problem.code in ROLE_CODES:
                raise
            raise ProblemError("sign_in_needed") from None  # Fifteen minutes are over.

    @property
    def sign_in_at(self) -> str | None:
        """Where people sign in; None where nobody can."""
        if self.sign_in is not None:
            return "/sign-in"
        place = self.siblings.get(self.signs_in)
        return None if place is None else f"{place.rstrip('/')}/sign-in"

    async def reader(self, request: Request, roles: frozenset[Role]) -> Actor | None:
        """Who reads what is open to everybody: who may ask for more, or None for anybody else, whatever other role a token gives.

        Raises ProblemError (401) for a token that does not count.
        """
        if "authorization" not in request.headers:
            return None
        try:
            return await self.asker(request, roles)
        except ProblemError as problem:
            if problem.code in ROLE_CODES:
                return None
            raise
