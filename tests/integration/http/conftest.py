"""The whole application without a socket: a store in memory, views in a real PostgreSQL."""

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey

from shared import logs
from shared.application import Asked, UseCase
from shared.contracts import registration
from shared.contracts.event import Refusal
from shared.envelope import Record, Stream
from shared.errors import FingerprintMismatchError, NotCaughtUpError, StaleVersionError
from shared.eventstore.values import Answer, AppendRequest, AppendResult, Head
from shared.http.api import Api
from shared.http.app import build_app
from shared.http.auth import Authenticator, own_issuer
from shared.http.devices import Device
from shared.http.door import Door, Roles
from shared.http.forms import Forms
from shared.http.positions import PositionToken
from shared.http.problems import ProblemError
from shared.http.query import Connection, Freshness, Views
from shared.metrics import Metrics
from shared.permissions import GRANTED, Actor
from tests.conftest import Databases, plain_logs
from tests.integration.http.seats import BALANCES, LOG_ID, NOW, PEOPLE, REFUSALS, TAKE_SEAT

ISSUER = "issuer-of-the-tests"
UNIT = "water-saving-office"
PERSON = UUID("0197f3a4-5c00-7000-8000-000000000001")
ACTIVITY = UUID("0197f3a4-5c00-7000-8000-00000000000f")


class TinyStore:
    """A log in a list."""

    service = "registration"

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.rows_read = 0
        self.answers: dict[UUID, tuple[bytes | None, Answer]] = {}
        self.trouble: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.arrivals: asyncio.Queue[UUID] = asyncio.Queue()

    async def append(self, request: AppendRequest) -> AppendResult:
        raise NotImplementedError

    async def read_stream(self, stream: Stream, after_version: int = 0, limit: int | None = None) -> Sequence[Record]:
        found = [each for each in self.records if each.stream == stream and each.version > after_version][:limit]
        self.rows_read += len(found)
        return found

    async def read_page(self, after_position: int, limit: int) -> Sequence[Record]:
        return self.records[after_position : after_position + limit]

    async def head(self) -> Head:
        if self.trouble:
            raise self.trouble
        return Head(LOG_ID, len(self.records))

    async def submit(
        self,
        use_case: UseCase[Any, Any],
        body: Any,
        *,
        ids: dict[str, UUID],
        actor: Actor,
        command_id: UUID,
        fingerprint: bytes | None,
        correlation_id: UUID,
        causation_id: UUID | None,
        traceparent: str | None,
        if_match: int | None = None,
        not_before: datetime | None = None,
    ) -> Answer:
        self.arrivals.put_nowait(command_id)
        if self.hold:
            await self.hold.wait()
        if self.trouble:
            raise self.trouble
        if command_id in self.answers:
            known, answer = self.answers[command_id]
            if known != fingerprint:
                raise FingerprintMismatchError(command_id)
            return replace(answer, repeated=True)
        planned = await use_case.plan(Asked(body, ids, actor, NOW, command_id), None)
        held = await self.read_stream(planned.stream)
        if if_match is not None and if_match != len(held):
            raise StaleVersionError(if_match, len(held))
        state = planned.aggregate.initial
        for record in held:
            state = planned.aggregate.evolve(state, registration.EnrollmentAccepted.model_validate_json(record.payload))
        decided = planned.decide(state)
        if isinstance(decided, Refusal):
            answer = Answer(command_id, "refused", len(self.records), 0, decided, repeated=False)
        else:
            answer = Answer(command_id, "accepted", len(self.records) + (1 if decided else 0), len(decided), None, repeated=False)
            for index, event in enumerate(decided):
                self.records.append(
                    Record(
                        service="registration",
                        log_id=LOG_ID,
                        position=len(self.records) + 1,
                        stream=planned.stream,
                        version=len(held) + index + 1,
                        event_id=uuid5(command_id, str(index)),
                        type=event.TYPE,
                        schema_version=event.VERSION,
                        time=NOW,
                        command_id=command_id,
                        correlation_id=correlation_id,
                        causation_id=causation_id,
                        actor=str(actor),
                        partition_key=str(planned.stream.id),
                        traceparent=traceparent,
                        payload=event.model_dump_json().encode(),
                    )
                )
        self.answers[command_id] = (fingerprint, answer)
        return answer


@dataclass
class Follow:
    """What the application waits for, as a test sets it: the positions that have arrived, by service."""

    arrived: dict[str, int] = field(default_factory=dict)

    async def for_lookups(self, tokens: Sequence[PositionToken], within_seconds: float) -> None:
        for token in tokens:
            if token.log_id != LOG_ID:
                raise ProblemError("after_foreign_log")
            if self.arrived.get(token.service, 0) < token.position:
                raise NotCaughtUpError(str(token))

    async def for_views(self, tokens: Sequence[PositionToken], within_seconds: float) -> Mapping[str, int]:
        await self.for_lookups(tokens, within_seconds)
        return {token.service: token.position for token in tokens}


@dataclass
class Told:
    """What the views' snapshot says of itself, as a test sets it."""

    freshness: list[Freshness] = field(default_factory=list)
    parked: frozenset[str] = frozenset()

    async def read_freshness(self, _connection: Connection) -> Sequence[Freshness]:
        return self.freshness

    async def read_parked(self, _connection: Connection) -> frozenset[str]:
        return self.parked


@dataclass
class Withdrawn:
    """Persons whose roles have been withdrawn; all others hold every role of the one unit."""

    persons: set[UUID] = field(default_factory=set)

    async def __call__(self, person_id: UUID) -> Roles:
        return {(role.value, UNIT): person_id not in self.persons for role in GRANTED}


async def no_device(_key_digest: str) -> Device | None:
    """No device has a key."""
    return None


@pytest.fixture(scope="session")
def key() -> ECKey:
    return ECKey.generate_key("P-256", {"kid": "one"}, private=True)


@pytest.fixture(scope="session")
def token(key: ECKey) -> Callable[..., str]:
    """Signs a bearer header; arguments change a claim."""

    def sign(role: str = "volunteer", person: UUID = PERSON, **claims: Any) -> str:
        now = int(time.time())
        said = {
            "iss": ISSUER,
            "aud": "leifeng",
            "sub": str(person),
            "role": role,
            "unit": UNIT,
            "iat": now,
            "exp": now + 900,
        }
        return "Bearer " + jwt.encode({"typ": "at+jwt", "alg": "ES256", "kid": "one"}, {**said, **claims}, key, algorithms=["ES256"])

    return sign


@pytest.fixture(scope="session")
async def pool(database: Databases) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    """A database with two views and a role to read as."""
    dsn = database()
    admin = await asyncpg.connect(database.admin(dsn))
    await admin.execute(SCHEMA)
    await admin.close()
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as made:
        yield made


SCHEMA = """
    CREATE ROLE tests_http_query NOLOGIN;
    GRANT tests_http_query TO scratch_owner;
    CREATE SCHEMA api AUTHORIZATION scratch_owner;
    SET ROLE scratch_owner;
    CREATE TABLE api.balances (unit_code text, volunteer_id uuid, minutes bigint, seen_at timestamptz, account_id uuid);
    CREATE TABLE api.people (volunteer_id uuid, name text);
    CREATE TABLE api.secrets (name text);
    GRANT USAGE ON SCHEMA api TO tests_http_query;
    GRANT SELECT ON api.balances, api.people TO tests_http_query;
    INSERT INTO api.balances
    SELECT 'unit-' || n % 3, ('0197f3a4-5c00-7000-8000-' || lpad(n::text, 12, '0'))::uuid, n * 45,
           CASE WHEN n % 2 = 0 THEN timestamptz '2017-03-05 00:30+00' + n * interval '1 hour' END,
           '0197f3a4-5c00-7000-8000-00000000000f'::uuid
    FROM generate_series(1, 70) AS n;
    INSERT INTO api.people VALUES ('0197f3a4-5c00-7000-8000-000000000001', '赵大山');
    INSERT INTO api.secrets VALUES ('x');
"""


@pytest.fixture
def store() -> TinyStore:
    return TinyStore()


@pytest.fixture
def follow() -> Follow:
    return Follow()


@pytest.fixture
def told() -> Told:
    return Told(
        freshness=[
            Freshness("hours", LOG_ID, applied=12, head=14, as_of=NOW),
            Freshness("registration", LOG_ID, applied=3, head=3, as_of=NOW),
        ]
    )


@pytest.fixture
def withdrawn() -> Withdrawn:
    return Withdrawn()


@pytest.fixture
def api(
    store: TinyStore,
    follow: Follow,
    told: Told,
    withdrawn: Withdrawn,
    pool: "asyncpg.Pool[asyncpg.Record]",
    key: ECKey,
    tmp_path: Path,
) -> Api:
    """Everything the application is made of; a test may replace a part."""
    keys = tmp_path / "issuer.json"
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))

    async def now() -> datetime:
        return NOW

    async def ready() -> bool:
        return store.trouble is None

    return Api(
        service="registration",
        title_zh="报名登记",
        title_en="Registration",
        version="0.0.1",
        use_cases=(TAKE_SEAT,),
        refusals=REFUSALS,
        queries=(BALANCES, PEOPLE),
        events=registration.EVENTS,
        submit=store.submit,
        store=store,
        views=Views(pool, "tests_http_query", told.read_freshness, told.read_parked),
        waits=follow,
        door=Door(Authenticator(own_issuer(keys, ISSUER)), withdrawn, no_device, now),
        ready=ready,
        now=now,
        fingerprint_key=b"k" * 32,
        forms=Forms(b"f" * 32, "http://leifeng"),
        metrics=Metrics("registration", "0.0.1"),
        siblings={"hours": "http://127.0.0.1:8102", "recognition": "http://127.0.0.1:8103"},
    )


@pytest.fixture
def app(api: Api) -> FastAPI:
    return build_app(api)


@pytest.fixture
async def client(app: FastAPI, token: Callable[..., str]) -> AsyncIterator[httpx.AsyncClient]:
    """A volunteer with a token, who speaks to the application directly."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leifeng", headers={"Authorization": token()}) as made:
        yield made


@pytest.fixture
def logged() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The log lines of this test, read back from JSON."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.configure("registration", "0.0.1", out=out)
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    plain_logs()
