"""A thousand invented persons go through the whole system by its public commands, and their names, numbers and words are found where they
are held and nowhere else: not on Kafka, in events, read models of others, logs, metrics, errors, nor in what is shown to the wrong role.

There are no traces to look into: of one, a command's events keep the id alone, and they are looked into whole. Each place is first seen to
hide nothing: what is planted there is found.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.record.memory_records import MemoryRecords

from deploy.local.environment import SERVICES, base_url
from deploy.local.kafka import LocalKafka
from deploy.local.postgres import LocalPostgres
from deploy.sample.year import id_number
from shared import kafka
from shared.contracts.event import SEALED_PREFIX
from shared.contracts.topics import TOPICS
from shared.http.signin import TOKEN_COOKIE
from shared.relay.readback import read, reading
from tests.e2e.canaries import FORMS, PERSONS, Canary, Kind, body_of, found_in, is_seen_through
from tests.e2e.stack import Stack, command, running
from tests.e2e.stage import OTHER_UNIT, UNIT, Stage, accepted, on, rows
from tests.e2e.test_rows import lists, logged_in, seen, walked
from tests.integration.recover.conftest import run
from tests.integration.signin.browser import Outline
from tests.loopback import NO_TLS

AT_ONCE: Final = 16
"""Requests that are under way together."""
SETTLED_WITHIN_S: Final = 90.0
AWAY: Final = 503
"""Said on purpose by a database that does not answer in time on a busy machine."""
PLAYED: Final = 8
"""So many of them go all the way, to hours and stars."""
PROCESSES: Final = tuple(f"{service}-{role}" for service in SERVICES for role in ("api", "worker"))
CAST: Final = (("督查员", "auditor", "water-bureau"), ("运维员", "ops", "water-bureau"))

HELD: Final[Mapping[tuple[str, str], frozenset[Kind]]] = {
    ("registration", "views.volunteers"): frozenset({"name", "words"}),
    ("registration", "views.clashes_overridden"): frozenset({"words"}),
    ("registration", "api.volunteers"): frozenset({"words"}),
    ("registration", "api.clashes_overridden"): frozenset({"words"}),
}
"""Every table and view that holds something of a person in the clear: read models of the service that keeps them, and what staff see."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, postgres_server: LocalPostgres, kafka_server: LocalKafka) -> Iterator[Stack]:
    """Six processes of their own: a thousand persons are too many for the first pages that other tests read."""
    with running(tmp_path_factory.mktemp("canaries"), postgres_server, kafka_server) as made:
        yield made


@pytest.fixture(scope="module")
async def stage(stack: Stack) -> AsyncIterator[Stage]:
    """The same with its programme and policies adopted, an auditor and somebody of operations."""
    made = Stage(stack)
    await made.set(*CAST)
    yield made
    await made.close()


async def together(jobs: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Does them all, some at a time."""
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await job()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())


# --- What they do -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def canaries(stage: Stage) -> Sequence[Canary]:
    """All of them register; some serve, and are given hours and a star; of some more is said, in words about them."""
    found = [Canary(number) for number in range(PERSONS)]
    leader = stage.leader("registration")

    def registering(one: Canary) -> Callable[[], Awaitable[None]]:
        async def register() -> None:
            said, end = body_of(one, UNIT, volunteer_id=str(one.id)), monotonic() + SETTLED_WITHIN_S
            while (answer := await command(leader, "/volunteers", said, key=one.phone, After=stage.programme_at)).status_code == AWAY:
                assert monotonic() < end, answer.text
            accepted(answer)

        return register

    await together(registering(one) for one in found)
    await stage.stack.settled(SETTLED_WITHIN_S)
    await _serve(stage, found[:PLAYED])
    await _talk_about(stage, found[PLAYED : PLAYED + 4])
    minor = body_of(found[0], UNIT, id_number=id_number(on(await stage.day(), "00:00").date() - timedelta(days=12 * 365), 7))
    accepted(await command(stage.self_("registration", uuid4()), "/volunteers", {**minor, "guardian_name": found[0].words}))
    await stage.stack.settled(SETTLED_WITHIN_S)
    return found


async def _serve(stage: Stage, who: Sequence[Canary]) -> None:
    """They come to an activity and to one at the same time, as a coordinator allows; what they served counts, and a star follows."""
    day = await stage.day()
    one = await stage.activity(on(day, "09:00"), on(day, "12:00"), PLAYED)
    other = await stage.activity(on(day, "10:00"), on(day, "11:00"), PLAYED)
    seats, door = (f"/activities/{one.id}/{what}" for what in ("enrollments", "attendance"))
    for each in who:
        said = {"volunteer_id": str(each.id), "position": "cleaner"}
        accepted(await command(stage.self_("registration", each.id), seats, said))
    await stage.stack.settled(SETTLED_WITHIN_S)
    for each in who:
        said = {"volunteer_id": str(each.id), "position": "cleaner", "override_reason": each.words}
        accepted(await command(stage.leader("registration"), f"/activities/{other.id}/enrollments", said))
    await stage.stack.travel(on(day, "09:00"))
    await stage.stack.settled(SETTLED_WITHIN_S)
    for each in who:
        accepted(await command(stage.kiosk(), f"{door}/{each.id}/check-in", {}))
    await stage.stack.travel(on(day, "11:30"))
    for each in who:
        accepted(await command(stage.kiosk(), f"{door}/{each.id}/check-out", {}))
    await stage.stack.settled(SETTLED_WITHIN_S)
    entries = await rows(stage.leader("hours"), "/confirm-queue", activity=str(one.id))
    assert len(entries) == len(who)
    for entry in entries:
        await stage.confirm(entry)
    await stage.stack.settled(SETTLED_WITHIN_S)
    for each in who:
        accepted(await command(stage.self_("recognition", each.id), f"/volunteers/{each.id}/stars", {}))


async def _talk_about(stage: Stage, who: Sequence[Canary]) -> None:
    """One loses a role, one asks to be erased and takes that back, one leaves, one is revealed; each in words where there are any."""
    bureau, role = stage.bureau("registration"), {"role": "activity_leader", "unit_code": UNIT}
    deprived, hesitant, leaver, shown = who
    accepted(await command(bureau, f"/people/{deprived.id}/roles", role))
    accepted(await command(bureau, f"/people/{deprived.id}/roles/withdraw", {**role, "reason": deprived.words}))
    erasure, asker = f"/volunteers/{hesitant.id}/erasure", stage.self_("registration", hesitant.id)
    accepted(await command(asker, erasure, {"reason": hesitant.words}))
    accepted(await command(asker, f"{erasure}/decline", {"reason_code": "taken_back"}))
    accepted(await command(stage.self_("registration", leaver.id), f"/volunteers/{leaver.id}/leave", {}))
    said = {"fields": ["name", "id_number", "phone", "skills"], "reason": "contact"}
    revealed = await bureau.post(f"/api/v1/volunteers/{shown.id}/reveal", json=said)
    assert found_in(revealed.content) == {"name", "id_number", "phone", "words"}, "who may see them sees them"


# --- What is asked wrongly, with their names and numbers in it ------------------------------------------------------------------------


@dataclass
class Asked:
    """Every error that was answered: what was asked, and the answer's head and body."""

    errors: list[tuple[str, httpx.Response]] = field(default_factory=list)

    async def __call__(self, asking: Awaitable[httpx.Response], *, code: str | None = None) -> None:
        """Asks; with a `code` it must be this error. What is answered without one is nobody's error."""
        answer = await asking
        assert answer.status_code < 500 or answer.status_code == AWAY, answer.text
        if code is not None:
            assert answer.json()["code"] == code, answer.text
        if answer.status_code >= 400:
            self.errors.append((f"{answer.request.method} {answer.request.url} {answer.status_code}", answer))

    def repeating(self) -> list[tuple[str, set[Kind]]]:
        """The errors that say a canary again."""
        said = [(what, found_in(_whole(answer))) for what, answer in self.errors]
        return [(what, set(kinds)) for what, kinds in said if kinds]


def _whole(answer: httpx.Response) -> bytes:
    return b"\n".join(b"%b: %b" % header for header in answer.headers.raw) + b"\n\n" + answer.content


@pytest.fixture(scope="module")
async def asked(stage: Stage, canaries: Sequence[Canary]) -> Asked:
    """All that can be got wrong, each with a canary where it is wrong."""
    made = Asked()
    one, taken = canaries[PLAYED + 4], canaries[PLAYED + 5]
    jobs: list[Callable[[], Awaitable[None]]] = []
    for service in SERVICES:
        for text in (one.name, one.id_number):
            jobs += [job async for job in _wrong_by_the_document(stage, made, service, text)]
            jobs += _wrong_bodies(stage, made, service, text)
            jobs += _wrong_pages(stage, made, service, text)
    await together(jobs)
    await _wrong_by_the_rules(stage, made, one, taken)
    await _wrong_sign_in(stage, made, one)
    await stage.stack.settled(SETTLED_WITHIN_S)
    return made


def _client_for(stage: Stage, service: str, roles: Sequence[str], person: UUID) -> httpx.AsyncClient:
    """Somebody who may, so that it is what they say that is wrong."""
    if "bureau_admin" in roles:
        return stage.bureau(service)
    if "unit_admin" in roles:
        return stage.leader(service)
    return stage.kiosk() if "kiosk" in roles else stage.self_(service, person)


async def _wrong_by_the_document(stage: Stage, asked: Asked, service: str, text: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Every operation there is: the text as an id in its path, as a parameter, as a parameter's name, as each field, as a field's name."""
    document = (await stage.bureau(service).get("/api/v1/openapi.json")).json()
    actions = (await stage.bureau(service).get("/permissions.json")).json()["actions"]
    roles = {(each["method"].lower(), each["path"]): each["roles"] for each in actions}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            client = _client_for(stage, service, roles[method, path], uuid4())
            right = re.sub(r"\{\w+\}", str(uuid4()), path)

            def asking(method: str, path: str, client: httpx.AsyncClient = client, **more: Any) -> Callable[[], Awaitable[None]]:
                headers = {"Idempotency-Key": uuid4().hex}
                return lambda: asked(client.request(method, path, headers=headers, **more))

            if "{" in path:
                yield asking(method, re.sub(r"\{\w+\}", text, path), json={} if method == "post" else None)
            yield asking(method, right, params={text: "1"}, json={} if method == "post" else None)
            for parameter in _parameters(document, operation):
                yield asking(method, right, params={parameter: text})
            if method == "post":
                fields = _fields(document, operation)
                yield asking(method, right, json={**dict.fromkeys(fields, text), text: text})
                yield asking(method, right, json={**{name: [{text: text}] for name in fields}, "x": 1})


def _resolved(document: Mapping[str, Any], said: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in said:
        return said
    found: Any = document
    for step in said["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def _parameters(document: Mapping[str, Any], operation: Mapping[str, Any]) -> list[str]:
    said = [_resolved(document, each) for each in operation.get("parameters", ())]
    return [each["name"] for each in said if each["in"] == "query"]


def _fields(document: Mapping[str, Any], operation: Mapping[str, Any]) -> list[str]:
    schema = _resolved(document, operation["requestBody"]["content"]["application/json"]["schema"])
    return list(schema.get("properties", {}))


FILE_COMMANDS: Final = {"registration": "/programmes", "hours": "/hours-policies", "recognition": "/star-policies"}
FILES: Final = (
    "{0}: 1",
    "version: {0}\neffective_from: {0}\nthresholds_hours: [{0}]",
    "programme: {{year: {0}, {0}: 1}}\ncarriers: [{{code: {0}, name_zh: 1}}]",
    "a: *{0}",
    "a: !{0} b",
    "a: &{0} [1]\nb: &{0} [1]",
    "{0}: 1\n{0}: 2",
    "a: {0}: {0}\n- {0}",
    "- [{0}",
    "'{0}",
    "%TAG !{0}! {0}\n---\na: 1",
)
BODIES: Final = (
    '{{"file": "{0}',
    '{{"file": "a"}} {0}',
    '{{"{0}": 1, "{0}": 2}}',
    '{{"{0}": "\\u0000"}}',
    '{{"{0}": {{"{0}": "\\ud800"}}}}',
    '{{"{0}": 1e999}}',
    '{{"{0}": {0}00000000000000000000}}',
    '["{0}"]',
    '"{0}"',
    '{{"{0}": [' + "0," * 20_000 + "0]}}",
    '{{"{0}": ' + "[" * 40 + "]" * 40 + "}}",
)
HEADERS: Final = (
    ("Idempotency-Key", "{} {}"),
    ("If-Match", "{}"),
    ("If-Match", '"{}"'),
    ("X-Correlation-Id", "{}"),
    ("After", "{}"),
    ("After", "registration:{}:1"),
    ("Acting-As", "{}"),
    ("Acting-As", "unit_admin@{}"),
    ("Authorization", "Bearer {}"),
    ("Authorization", "Bearer lfd_{}"),
    ("Content-Type", "{}"),
    ("Content-Type", "application/json; charset={}"),
    ("Content-Encoding", "{}"),
    ("Accept-Language", "{}"),
    ("Traceparent", "00-{}-{}-00"),
    ("X-Forwarded-For", "{}"),
    ("Cookie", "lang={0}; leifeng_token={0}"),
)
ADDRESSES: Final = (
    "/{}",
    "/api/v1/{}",
    "/api/v1/volunteers/{}",
    "/api/v1/streams/{}/events",
    "/api/v1/streams/volunteer-{}/events",
    "/schemas/{}/1",
    "/problems/{}",
    "/static/{}",
    "/sign-in/callback?state={}&code={}",
    "/view/{}",
    "/view/streams/{}/events",
    "/view/streams/star-{}/events",
    "/view/units?{}=1",
    "/view/units?limit={}",
    "/view/units?cursor={}",
    "/view/balances?volunteer={}",
    "/view/stars?{}={}",
)


def _wrong_bodies(stage: Stage, asked: Asked, service: str, text: str) -> Iterator[Callable[[], Awaitable[None]]]:
    """Files with wrong lines, bodies that are no JSON, headers that are none, of the one command that all three services have alike."""
    client, path = stage.bureau(service), FILE_COMMANDS[service]

    def posting(content: bytes, header: str = "Accept", value: bytes = b"*/*") -> Callable[[], Awaitable[None]]:
        said = {b"Idempotency-Key": uuid4().hex.encode(), b"Content-Type": b"application/json", header.encode(): value}
        auth = httpx.Auth() if header == "Authorization" else httpx.USE_CLIENT_DEFAULT
        return lambda: asked(client.post(f"/api/v1{path}", content=content, headers=said, auth=auth))

    for file in FILES:
        yield partial(lambda said: asked(command(client, path, {"file": said})), file.format(text))
    for body in BODIES:
        yield posting(body.format(text).encode())
    for header, value in HEADERS:
        yield posting(b'{"file": "a"}', header, value.format(text, text).encode())


def _wrong_pages(stage: Stage, asked: Asked, service: str, text: str) -> Iterator[Callable[[], Awaitable[None]]]:
    """Addresses where there is nothing, and pages that are asked for in a wrong way."""
    client = stage.bureau(service)
    for address in ADDRESSES:
        yield partial(lambda said: asked(client.get(said)), address.format(text, text))
    yield lambda: asked(client.request("DELETE", f"/metrics?{text}"))


async def _wrong_by_the_rules(stage: Stage, asked: Asked, one: Canary, taken: Canary) -> None:
    """What the rules refuse, each with a canary in the field that they refuse; a phone number may pass for a code."""
    leader, bureau, day = stage.leader("registration"), stage.bureau("registration"), await stage.day()
    ready = {"volunteer_id": str(uuid4())}

    async def refused(code: str, client: httpx.AsyncClient, path: str, body: Mapping[str, Any], **headers: str) -> None:
        await asked(command(client, path, body, **headers), code=code)

    new = {"id_number": id_number(on(day, "00:00").date() - timedelta(days=40 * 365), 8)}
    for code, body in (
        ("id_number_taken", {}),
        ("id_number_invalid", {"id_number": one.id_number[:17] + ("1" if one.id_number[17] != "1" else "2")}),
        ("id_number_invalid", {"id_number": one.name + one.phone}),
        ("phone_invalid", {**new, "phone": one.id_number}),
        ("phone_invalid", {**new, "phone": one.name}),
        ("no_consent", {**new, "consents": []}),
    ):
        await refused(code, leader, "/volunteers", body_of(one, UNIT, **ready, **body))
    for number in (one.phone, one.id_number.lower()):
        await refused("wrong_unit", leader, "/volunteers", body_of(one, number, **ready, **new))
        await refused("unit_unknown", bureau, "/volunteers", body_of(one, number, **ready, **new))
        await refused("unit_unknown", bureau, f"/people/{one.id}/roles", {"role": "kiosk", "unit_code": number})
        device = {"unit_code": number, "name": "签到机", "key_digest": "0" * 64, "networks": ["127.0.0.1"]}
        await refused("unit_unknown", bureau, "/devices", device)
        plan = stage.plan(on(day, "09:00"), on(day, "10:00"))
        await refused("wrong_unit", leader, "/activities", {**plan, "unit_code": number})
        await refused("unit_unknown", bureau, "/activities", {**plan, "unit_code": number})
        for word in ("carrier", "target_group", "occasion"):
            await refused("programme_word_unknown", leader, "/activities", {**plan, word: number})
        activity = await stage.activity(on(day, "09:00"), on(day, "10:00"))
        seat = {"volunteer_id": str(one.id), "position": number}
        await refused("position_unknown", leader, f"/activities/{activity.id}/enrollments", seat)
        await refused("position_unknown", leader, f"/activities/{activity.id}/capacity", {"position": number, "capacity": 1})
    await refused("already_registered", leader, "/volunteers", body_of(one, UNIT, volunteer_id=str(one.id)))
    await refused("idempotency_key_reused", leader, "/volunteers", body_of(taken, UNIT), key=one.phone)
    await refused("wrong_unit", stage.leader("registration", OTHER_UNIT), f"/volunteers/{one.id}/leave", {})
    for text in one.texts.values():
        said = {"fields": [text], "reason": text}
        await asked(bureau.post(f"/api/v1/volunteers/{one.id}/reveal", json=said), code="field_wrong_value")
        await asked(bureau.post(f"/api/v1/volunteers/{one.id}/reveal", json={**said, "reason": "contact"}), code="field_wrong_value")
        await asked(bureau.get(f"/api/v1/volunteers/{one.id}/copy", params={"format": text}), code="parameter_invalid")


async def _wrong_sign_in(stage: Stage, asked: Asked, one: Canary) -> None:
    """Names and numbers in the form at the door."""
    async with httpx.AsyncClient(base_url=base_url(stage.stack.ports, "registration"), timeout=20, verify=NO_TLS) as browser:
        browser.headers["Origin"] = str(browser.base_url).rstrip("/")
        for path in ("/sign-in", "/sign-in/link"):
            for text in one.texts.values():
                (form,) = Outline((await browser.get(path)).text).forms
                said = {**form.fields, "login": text, "password": text, "key": text}
                await asked(browser.post(path, data=said))
                await asked(browser.post(path, data={**said, "csrf": text}))
                await asked(browser.post(path, content=text.encode()))


def test_no_error_says_again_what_it_was_asked_with(asked: Asked) -> None:
    assert asked.repeating() == []
    statuses = Counter(answer.status_code for _, answer in asked.errors)
    assert set(statuses) >= {400, 401, 403, 404, 405, 409, 412, 415, 422}
    assert statuses.total() > 500
    codes = {answer.json()["code"] for _, answer in asked.errors if answer.headers["content-type"] == "application/problem+json"}
    assert len(codes) >= 35, codes
    for _, answer in asked.errors[:: len(asked.errors) // 5]:
        assert is_seen_through(_whole(answer))


# --- Where they are looked for --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_is_planted_is_found_in_every_form(form: str) -> None:
    for number in (0, 417, 999):
        for kind, text in Canary(number).texts.items():
            assert found_in(FORMS[form](text)) == {kind}
    assert found_in("赵大山 19900000001 379901198005010018".encode()) == set()


@dataclass(frozen=True)
class Topic:
    """A topic as it lies on the disk, its records once the batches there are unpacked, and the records that a consumer is given."""

    on_disk: bytes
    unpacked: Sequence[bytes]
    given: Sequence[bytes]

    @property
    def kinds(self) -> frozenset[Kind]:
        """What is found in it, in any of the three."""
        return frozenset[Kind]().union(*map(found_in, (self.on_disk, b"\n".join(self.unpacked), b"\n".join(self.given))))


async def _topic(stack: Stack, name: str) -> Topic:
    (folder,) = stack.kafka.children[0].log.parent.glob(f"data/{name}-0")
    segments = [each.read_bytes() for each in sorted(folder.glob("*.log"))]
    unpacked = list[bytes]()
    for each in segments:
        batches = MemoryRecords(each)
        while batches.has_next():
            unpacked += [_record(one) for one in batches.next_batch()]
    given = list[bytes]()
    async with reading(stack.kafka.servers, name, "canaries") as consumer:
        _, end = await kafka.offsets(consumer, name)
        while records := await read(consumer, name, end):
            given += [_record(one) for one in records]
    return Topic(b"\n".join(segments), unpacked, given)


def _record(one: Any) -> bytes:
    """Key, value and headers."""
    headers = (part for name, value in one.headers for part in (name.encode(), value))
    return b"\n".join(part or b"" for part in (one.key, one.value, *headers))


@pytest.mark.usefixtures("canaries", "asked")
async def test_nothing_of_them_is_on_kafka_packed_or_unpacked(stack: Stack) -> None:
    topics = {name: await _topic(stack, kafka.topic_name(stack.prefix, name)) for name in TOPICS}
    for name, topic in topics.items():
        assert not topic.kinds, name
        if name.endswith(".events"):  # What is said of the heads goes on.
            assert topic.unpacked == topic.given, name
    events = topics["registration.events"]
    assert b"".join(events.given).count(SEALED_PREFIX.encode()) >= 4 * PERSONS, "they are there, sealed"
    assert len(events.on_disk) < len(b"".join(events.given)), "and packed"


@pytest.mark.parametrize("packed", [None, "zstd"])
async def test_on_kafka_it_would_be_found_in_key_value_and_header(stack: Stack, packed: str | None) -> None:
    name, planted = f"{stack.prefix}planted-{packed}", Canary(7)
    async with kafka.admin_client(stack.kafka.servers) as admin:
        await admin.create_topics([NewTopic(name, 1, 1)])
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka.servers, compression_type=packed)
    await producer.start()
    value = planted.name.encode() + b"a" * 1000
    await producer.send_and_wait(name, value, planted.phone.encode(), headers=[("ce_x", planted.id_number.encode())], partition=0)
    await producer.stop()
    topic = await _topic(stack, name)
    whole = {"name", "phone", "id_number"}
    assert found_in(topic.unpacked[0]) == found_in(topic.given[0]) == whole
    assert packed or found_in(topic.on_disk) == whole


_TABLES: Final = """
    SELECT space.nspname AS space, relname AS name FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace
    WHERE space.nspname !~ '^(pg_|information_schema)' AND relkind IN ('r', 'v', 'p', 'm') AND relname LIKE $1 ORDER BY 1, 2
"""


async def _held(stack: Stack, only: str = "%") -> tuple[dict[tuple[str, str], frozenset[Kind]], int]:
    """What each table and view of each service has of them; and how many there are. Payloads are looked at as they are, too."""
    found, count = dict[tuple[str, str], frozenset[Kind]](), 0
    for service in SERVICES:
        async with stack.asking(service) as database:
            for space, name in await database.fetch(_TABLES, only):
                rows = await database.fetch(f'SELECT to_jsonb(one)::text FROM "{space}"."{name}" AS one')
                content = "\n".join(row for (row,) in rows).encode()
                if (space, name) == ("es", "event"):
                    content += b"\n".join(row for (row,) in await database.fetch("SELECT payload FROM es.event"))
                count += 1
                if kinds := found_in(content):
                    found[service, f"{re.sub(r'^views_[0-9]+$', 'views', space)}.{name}"] = kinds
    return found, count


@pytest.mark.usefixtures("canaries", "asked")
async def test_in_the_databases_they_stand_in_the_clear_where_they_are_held_and_nowhere_else(stack: Stack) -> None:
    found, count = await _held(stack)
    assert found == HELD
    assert count > 100


async def test_in_a_database_it_would_be_found_as_bytes_as_text_and_inside_json(stack: Stack) -> None:
    planted = Canary(8)
    for service in SERVICES:
        async with stack.asking(service) as database:
            await database.execute("CREATE TABLE public.planted (bytes bytea, said text, more jsonb)")
            await database.execute(
                "INSERT INTO public.planted VALUES ($1, $2, jsonb_build_object('a', $3::text))",
                planted.name.encode(),
                planted.words,
                planted.phone,
            )
    found, _ = await _held(stack, only="planted")
    for service in SERVICES:
        await stack.sql(service, "DROP TABLE public.planted")
    assert found == dict.fromkeys(((service, "public.planted") for service in SERVICES), frozenset({"name", "words", "phone"}))


@pytest.mark.usefixtures("asked")
async def test_no_process_says_anything_of_them_in_its_log(stack: Stack) -> None:
    logs = [*stack.folder.glob("*.log"), stack.postgres.log, stack.kafka.children[0].log]
    assert {each.stem for each in logs} >= {*PROCESSES, "postgres", "kafka-0"}
    for log in logs:
        content = log.read_bytes()
        assert found_in(content) == set(), log.name
        assert is_seen_through(content)
    assert (stack.folder / "registration-api.log").read_bytes().count(b"command_answered") > PERSONS


@pytest.mark.usefixtures("asked")
async def test_no_process_counts_them_by_name(stack: Stack) -> None:
    async with httpx.AsyncClient(timeout=10, verify=NO_TLS) as client:
        for name in PROCESSES:
            shown = (await client.get(f"{stack.url(name)}/metrics")).content
            assert b"leifeng_" in shown
            assert found_in(shown) == set(), name
            assert is_seen_through(shown)


@pytest.mark.usefixtures("asked")
async def test_an_operator_is_told_nothing_of_them(stack: Stack) -> None:
    said = await run("registration", stack.environment("registration"), "refusals", "--limit", "200")
    assert (said.code, "unit_unknown" in said.out) == (0, True), said.out
    assert found_in(said.out.encode()) == set()
    assert is_seen_through(said.out.encode())


# --- What is shown, and to whom -------------------------------------------------------------------------------------------------------


READERS: Final[Mapping[str, tuple[str, str, str]]] = {
    "an auditor": CAST[0],
    "somebody of operations": CAST[1],
    "a volunteer of another unit": ("外人", "volunteer", OTHER_UNIT),
    "the kiosk of their own unit": (f"签到机 {UNIT}", "kiosk", UNIT),
    "the admin of another unit": (f"科长乙 {OTHER_UNIT}", "unit_admin", OTHER_UNIT),
}


async def _shown(stage: Stage, service: str, client: httpx.AsyncClient, token: str | None, who: Sequence[Canary]) -> dict[str, bytes]:
    """Everything that this reader gets by reading: lists, whole; events; pages; and what is asked about each of `who`."""
    shown = dict[str, bytes]()
    signed_in = {"Cookie": f"{TOKEN_COOKIE}={token}"} if token else {}
    for path, is_public in (await lists(client)).items():
        if not is_public or token is None:
            found = await walked(client, path)
            shown[path] = str(found).encode() if isinstance(found, list) else b""
        page = path.replace("/api/v1", "/view")
        shown[page] = (await client.get(f"{page}?limit=200", headers=signed_in)).content
    after: int | None = 0
    while after is not None:
        answer = await client.get("/api/v1/events", params={"limit": "200", "after": str(after)})
        after = answer.json().get("next_after")
        shown["/api/v1/events"] = shown.get("/api/v1/events", b"") + answer.content
    for each in who:
        for form in ("json", "xlsx"):
            path = f"/api/v1/volunteers/{each.id}/copy?format={form}"
            shown[path] = (await client.get(path)).content
        for path in (f"/api/v1/streams/volunteer-{each.id}/events", f"/view/streams/volunteer-{each.id}/events"):
            shown[path] = (await client.get(path)).content
        path = f"/api/v1/volunteers/{each.id}/reveal"
        shown[path] = (await client.post(path, json={"fields": ["name", "id_number"], "reason": "contact"})).content
    for path in ("/", "/api/v1/openapi.json", "/asyncapi.json", "/schemas", "/problems.json"):
        shown[path] = (await client.get(path)).content
    return shown


def _hits(shown: Mapping[str, bytes]) -> dict[str, set[Kind]]:
    return {path: set(kinds) for path, content in shown.items() if (kinds := found_in(content))}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.usefixtures("asked")
async def test_who_has_no_business_with_them_is_shown_nothing_of_them(
    stage: Stage, canaries: Sequence[Canary], reader: str, service: str
) -> None:
    who = READERS[reader]
    token = stage.stack.token(*who).removeprefix("Bearer ")
    shown = await _shown(stage, service, stage.client(service, *who), token, canaries[:2])
    assert _hits(shown) == {}
    assert is_seen_through(max(shown.values(), key=len))
    if reader == "an auditor" and service == "registration":
        assert shown["/api/v1/volunteers"].count(str(canaries[0].id).encode()) > 0, "the row is there, masked"
        assert shown["/api/v1/events"].count(b"[sealed]") > 4 * PERSONS


@pytest.mark.parametrize("service", SERVICES)
async def test_the_public_is_shown_nothing_of_them(stage: Stage, canaries: Sequence[Canary], service: str) -> None:
    async with httpx.AsyncClient(base_url=base_url(stage.stack.ports, service), timeout=10, verify=NO_TLS) as nobody:
        shown = await _shown(stage, service, nobody, None, canaries[:2])
    assert _hits(shown) == {}


@pytest.mark.usefixtures("asked")
async def test_the_search_finds_them_where_they_may_be_seen(stage: Stage, canaries: Sequence[Canary]) -> None:
    """Else all that was found nowhere would prove nothing: the person's own copy, in both forms, and what their unit's staff see."""
    own = stage.self_("registration", canaries[1].id)
    for form in ("json", "xlsx"):
        copy = await own.get(f"/api/v1/volunteers/{canaries[1].id}/copy", params={"format": form})
        assert found_in(copy.content) == {"name", "words", "phone", "id_number"}, form
    staff = await walked(stage.leader("registration"), "/api/v1/volunteers")
    assert found_in(str(staff).encode()) == {"words"}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.usefixtures("asked")
async def test_in_sql_a_login_sees_at_most_what_its_units_staff_see(stage: Stage, service: str) -> None:
    for units, least in (([OTHER_UNIT], 0), ([UNIT], PERSONS), (None, PERSONS)):
        async with logged_in(stage.stack, service, units) as session:
            views = await seen(session)
        kinds = {(service, f"api.{name}"): found for name, content in views.items() if (found := found_in(str(content).encode()))}
        assert kinds == ({key: found for key, found in HELD.items() if key in kinds} if least else {}), units
        if service == "registration":
            assert len(views["volunteers"]) >= least
            assert bool(kinds) == bool(least)
