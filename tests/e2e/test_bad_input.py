"""Bad input, over HTTP, on the real services: each gets its typed problem (RFC 9457), which the documents know, and leaves no event."""

import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from deploy.local.environment import ISSUER, SERVICES
from shared.http.problems import MEDIA_TYPE
from tests.e2e.stack import Stack, command
from tests.e2e.stage import OTHER_UNIT, UNIT, Activity, Stage, Volunteer, accepted, on, rows, stream_id
from tests.loopback import NO_TLS

NOBODY: Final = UUID("0197f3a4-5c00-7000-8000-0000000000ff")


class Documents:
    """What a service says of its problems, fetched once."""

    def __init__(self, openapi: Mapping[str, Any], problems: Mapping[str, Mapping[str, Any]]) -> None:
        self._problems = problems
        self._operations = {
            (method.upper(), re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + "$")): operation
            for path, operations in openapi["paths"].items()
            for method, operation in operations.items()
        }

    def check(self, answer: httpx.Response, code: str) -> None:
        """The answer is this problem, as the catalogue and the route's own document say it."""
        assert answer.headers["content-type"] == MEDIA_TYPE, answer.text
        said = answer.json()
        assert said["code"] == code, said
        listed = self._problems[code]
        assert answer.status_code == said["status"] == listed["status"]
        assert {name: said[name] for name in ("type", "title_zh", "title_en")} == {
            name: listed[name] for name in ("type", "title_zh", "title_en")
        }
        assert said["title"] in {said["title_zh"], said["title_en"]}
        asked = answer.request
        [documented] = [each for (method, path), each in self._operations.items() if method == asked.method and path.match(asked.url.path)]
        assert code in documented["responses"][str(answer.status_code)]["content"][MEDIA_TYPE]["examples"]


@pytest.fixture(scope="module")
async def documents(stage: Stage) -> dict[int, Documents]:
    """By port."""
    found = {}
    for service in SERVICES:
        client = stage.bureau(service)
        openapi = (await client.get("/api/v1/openapi.json")).json()
        problems = (await client.get("/problems.json")).json()["problems"]
        found[stage.stack.ports.api[service]] = Documents(openapi, {each["code"]: each for each in problems})
    return found


Heads = Callable[[], Awaitable[dict[str, int]]]


@pytest.fixture(scope="module")
async def heads(stack: Stack) -> AsyncIterator[Heads]:
    """How many events each log holds, each time it is asked."""
    connections = {service: await asyncpg.connect(stack.dsn(service, "admin"), timeout=5) for service in SERVICES}

    async def count() -> dict[str, int]:
        return {service: await connections[service].fetchval("SELECT count(*) FROM es.event") for service in SERVICES}

    yield count
    for connection in connections.values():
        await connection.close(timeout=5)


# --- What is wrong before anybody knows what is asked -------------------------------------------------------------------------------

FILE_COMMANDS: Final = {"registration": "/programmes", "hours": "/hours-policies", "recognition": "/star-policies"}
"""One command of each service; all three take a body of one text."""

BODIES: Final[Mapping[str, tuple[bytes, str]]] = {
    "a body that ends in the middle": (b'{"file": "a', "json_malformed"),
    "an empty body": (b"", "json_malformed"),
    "text after the value": (b'{"file": "a"} b', "json_malformed"),
    "bytes that are no UTF-8": (b'{"file": "\xff"}', "body_not_utf8"),
    "a key named twice": (b'{"file": "a", "file": "b"}', "json_duplicate_key"),
    "a field that nobody knows": (b'{"file": "a", "rank": 1}', "field_unknown"),
    "a field that is missing": (b"{}", "field_missing"),
    "a number where a text belongs": (b'{"file": 7}', "field_wrong_type"),
    "null where a text belongs": (b'{"file": null}', "field_wrong_type"),
    "a list where an object belongs": (b'["file"]', "field_wrong_type"),
    "a text that is too short": (b'{"file": ""}', "field_wrong_value"),
    "not a number": (b'{"file": NaN}', "json_number_not_finite"),
    "a number beyond all floats": (b'{"file": 1e999}', "json_number_not_finite"),
    "a number of thirty digits": (b'{"file": 123456789012345678901234567890}', "json_integer_too_large"),
    "nesting a thousand deep": (b'{"file": ' + b"[" * 1000 + b"]" * 1000 + b"}", "json_too_deep"),
    "more elements than anybody lists": (b'{"file": [' + b"0," * 20_000 + b"0]}", "json_array_too_long"),
    "the character NUL": (b'{"file": "a\\u0000b"}', "text_has_nul"),
    "half of a surrogate pair": (b'{"file": "a\\ud800b"}', "text_has_lone_surrogate"),
    "a body of six megabytes": (b'{"file": "' + b"a" * 6 * 1024 * 1024 + b'"}', "body_too_large"),
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("body", "code"), BODIES.values(), ids=BODIES)
async def test_a_body_that_is_wrong(
    stage: Stage, documents: dict[int, Documents], service: str, body: bytes, code: str, heads: Heads
) -> None:
    before = await heads()
    headers = {"Idempotency-Key": uuid4().hex, "Content-Type": "application/json"}
    answer = await stage.bureau(service).post(f"/api/v1{FILE_COMMANDS[service]}", content=body, headers=headers)
    documents[answer.request.url.port or 0].check(answer, code)
    assert await heads() == before


HEADERS: Final[Mapping[str, tuple[dict[str, str], str]]] = {
    "no idempotency key": ({"Idempotency-Key": ""}, "idempotency_key_missing"),
    "an idempotency key of 201 characters": ({"Idempotency-Key": "k" * 201}, "idempotency_key_invalid"),
    "an idempotency key with a space": ({"Idempotency-Key": "a b"}, "idempotency_key_invalid"),
    "a body that is no JSON by its own word": ({"Content-Type": "text/plain"}, "content_type_unsupported"),
    "a body that is packed": ({"Content-Encoding": "gzip"}, "content_type_unsupported"),
    "an expected version that is none": ({"If-Match": "latest"}, "if_match_invalid"),
    "a correlation id that is none": ({"X-Correlation-Id": "mine"}, "correlation_id_invalid"),
    "a position token that is none": ({"After": "registration:7"}, "after_invalid"),
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("headers", "code"), HEADERS.values(), ids=HEADERS)
async def test_a_header_that_is_wrong(
    stage: Stage, documents: dict[int, Documents], service: str, headers: dict[str, str], code: str, heads: Heads
) -> None:
    before = await heads()
    sent = {"Idempotency-Key": uuid4().hex, "Content-Type": "application/json", **headers}
    sent = {name: value for name, value in sent.items() if value}
    answer = await stage.bureau(service).post(f"/api/v1{FILE_COMMANDS[service]}", content=b'{"file": "a"}', headers=sent)
    documents[answer.request.url.port or 0].check(answer, code)
    assert await heads() == before


def token(stack: Stack, *, age_seconds: int = 0, key: ECKey | None = None, **claims: Any) -> str:
    """A bearer header whose claims, age or key differ from what the local issuer gives."""
    private = json.loads(stack.keys.issuer_private_file.read_text())
    issued = int(time.time()) - age_seconds
    said = {
        "iss": ISSUER, "aud": "leifeng", "sub": str(NOBODY), "role": "bureau_admin", "unit": "water-bureau",
        "iat": issued, "exp": issued + 600, "jti": uuid4().hex, **claims,
    }  # fmt: skip
    head = {"typ": "at+jwt", "alg": "ES256", "kid": private["kid"]}
    return "Bearer " + jwt.encode(head, said, key or ECKey.import_key(private), algorithms=["ES256"])


TOKENS: Final[Mapping[str, tuple[Callable[[Stack], str], str]]] = {
    "no token": (lambda _: "", "token_missing"),
    "a token that has expired": (lambda stack: token(stack, age_seconds=3600), "token_expired"),
    "a token that is to count tomorrow": (lambda stack: token(stack, age_seconds=-86_400), "token_expired"),
    "a token that somebody else has signed": (lambda stack: token(stack, key=ECKey.generate_key("P-256", private=True)), "token_invalid"),
    "a token for another system": (lambda stack: token(stack, aud="elsewhere"), "token_invalid"),
    "a token of a role that is none": (lambda stack: token(stack, role="emperor"), "token_invalid"),
    "a token in the service's own name": (lambda stack: token(stack, role="system"), "token_invalid"),
    "a token of a role that was never granted": (token, "role_not_held"),
    "a token of the wrong role": (lambda stack: token(stack, role="volunteer"), "role_not_allowed"),
    "a token of nine kilobytes": (lambda _: "Bearer " + "a" * 9000, "token_too_large"),
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("make", "code"), TOKENS.values(), ids=TOKENS)
async def test_a_token_that_does_not_count(
    stage: Stage, documents: dict[int, Documents], service: str, make: Callable[[Stack], str], code: str, heads: Heads
) -> None:
    before = await heads()
    headers = {"Authorization": header} if (header := make(stage.stack)) else {}
    async with httpx.AsyncClient(base_url=stage.bureau(service).base_url, headers=headers, verify=NO_TLS) as client:
        answer = await command(client, FILE_COMMANDS[service], {"file": "a"})
    documents[answer.request.url.port or 0].check(answer, code)
    assert await heads() == before


async def test_a_role_that_was_withdrawn_counts_nowhere_any_more(stage: Stage, documents: dict[int, Documents], heads: Heads) -> None:
    person, bureau = uuid4(), stage.bureau("registration")
    role = {"role": "unit_admin", "unit_code": UNIT}
    accepted(await command(bureau, f"/people/{person}/roles", role))
    accepted(await command(bureau, f"/people/{person}/roles/withdraw", {**role, "reason": "moved on"}))
    await stage.stack.settled()
    before = await heads()
    for service, path in (
        ("registration", "/activities"),
        ("hours", f"/activities/{NOBODY}/attendance/{NOBODY}/check-in"),
        ("recognition", f"/volunteers/{NOBODY}/stars"),
    ):
        answer = await command(stage.client(service, person, "unit_admin", UNIT), path, {})
        documents[answer.request.url.port or 0].check(answer, "role_withdrawn")
    assert await heads() == before


# --- What the rules of the domain refuse --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """Half past eleven on a day with activities; what everybody in it has done so far.

    Ann has the one seat of `full`, Ben the one place on its wait-list. Dan served at `morning` and, as a coordinator allowed, at `noon`,
    which overlap; `morning` counts already. Fay is checked in at `long`. Cyd has only registered.
    """

    stage: Stage
    today: date
    ann: Volunteer
    ben: Volunteer
    cyd: Volunteer
    dan: Volunteer
    fay: Volunteer
    full: Activity
    clashing: Activity
    cancelled: Activity
    long: Activity
    morning_entry: dict[str, Any]
    noon_entry: dict[str, Any]

    async def post(self, client: httpx.AsyncClient, path: str, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        return await command(client, path, body, **headers)

    async def register(self, **other: Any) -> httpx.Response:
        """Somebody new registers, but for `other`."""
        said = self.stage.registration("周小河", **other)
        return await command(self.stage.self_("registration", uuid4()), "/volunteers", said)

    async def publish(self, starts: str, ends: str, *, days: int = 1, unit: str = UNIT, **other: Any) -> httpx.Response:
        """The unit's leader publishes a plan, `days` from today."""
        day = self.today + timedelta(days=days)
        return await command(
            self.stage.leader("registration", unit), "/activities", self.stage.plan(on(day, starts), on(day, ends), **other)
        )

    async def enroll(self, volunteer: UUID, activity: UUID, position: str = "cleaner") -> httpx.Response:
        said = {"volunteer_id": str(volunteer), "position": position}
        return await command(self.stage.self_("registration", volunteer), f"/activities/{activity}/enrollments", said)

    async def door(self, move: str, volunteer: UUID, activity: UUID, kiosk: httpx.AsyncClient | None = None) -> httpx.Response:
        return await command(kiosk or self.stage.kiosk(), f"/activities/{activity}/attendance/{volunteer}/{move}", {})

    async def entry(self, move: str, entry: Mapping[str, Any], by: httpx.AsyncClient | None = None, /, **said: str) -> httpx.Response:
        """`confirm`, `correct` or `reverse` an entry of Dan's."""
        path = f"/accounts/{self.dan.id}/entries/{entry['entry_id']}/{move}"
        return await command(by or self.stage.leader("hours"), path, {"served_on": entry["served_on"], **said})

    async def correct(self, starts: str, ends: str, *, days: int = 0) -> httpx.Response:
        """Dan's morning was another interval, says Dan."""
        day = self.today + timedelta(days=days)
        said = {"reason": "wrong_time", "requester_id": str(self.dan.id)}
        times = {"starts_at": on(day, starts).isoformat(), "ends_at": on(day, ends).isoformat()}
        return await self.entry("correct", self.morning_entry, **times, **said)

    def hours(self, person: UUID | str, role: str, unit: str = UNIT) -> httpx.AsyncClient:
        return self.stage.client("hours", person, role, unit)


@pytest.fixture(scope="module")
async def scene(stage: Stage) -> Scene:
    """Everybody in their place. Nothing in the cases below changes it."""
    today = await stage.day()
    tomorrow = await stage.day()
    ann, ben, cyd, dan, fay = [await stage.volunteer(name) for name in ("安一", "白二", "程三", "丁四", "方五")]
    full = await stage.activity(on(tomorrow, "09:00"), on(tomorrow, "12:00"), 1, 1)
    clashing = await stage.activity(on(tomorrow, "11:00"), on(tomorrow, "13:00"))
    cancelled = await stage.activity(on(tomorrow, "15:00"), on(tomorrow, "16:00"))
    accepted(await command(stage.leader("registration"), f"/activities/{cancelled.id}/cancel", {"reason": "storm"}))
    morning = await stage.activity(on(today, "08:00"), on(today, "10:00"))
    noon = await stage.activity(on(today, "09:00"), on(today, "11:00"))
    long = await stage.activity(on(today, "09:00"), on(today, "20:00"))
    await stage.enroll(ann, full)
    await stage.enroll(ben, full)
    await stage.enroll(dan, morning)
    override = {"volunteer_id": str(dan.id), "position": "cleaner", "override_reason": "both need a driver"}
    await stage.stack.settled()
    seat = accepted(await command(stage.leader("registration"), f"/activities/{noon.id}/enrollments", override))
    seat = await stage.enroll(fay, long)
    for hour, move, who, where in (
        ("08:00", "check-in", dan, morning),
        ("09:00", "check-in", dan, noon),
        ("10:00", "check-out", dan, morning),
        ("11:00", "check-out", dan, noon),
        ("11:30", "check-in", fay, long),
    ):
        await stage.stack.travel(on(today, hour))
        accepted(await stage.door(move, who, where, After=seat["position"]))
    [morning_entry] = await stage.waiting(dan, morning)
    [noon_entry] = await stage.waiting(dan, noon)
    await stage.confirm(morning_entry)
    await stage.stack.appoint(
        (cyd.id, "kiosk", UNIT),
        ("签到机", "kiosk", OTHER_UNIT),
        *((who, "unit_admin", UNIT) for who in (dan.id, noon_entry["recorder_id"], NOBODY)),
    )
    await stage.stack.settled()
    return Scene(stage, today, ann, ben, cyd, dan, fay, full, clashing, cancelled, long, morning_entry, noon_entry)


Case = Callable[[Scene], Awaitable[httpx.Response]]

REFUSED: Final[Mapping[str, tuple[str, Case]]] = {
    # registration
    "an id number whose check digit is wrong": ("id_number_invalid", lambda s: s.register(id_number="379901198005019999")),
    "an id number that somebody registered with": ("id_number_taken", lambda s: s.register(id_number=s.ann.id_number)),
    "a phone number that is none": ("phone_invalid", lambda s: s.register(phone="12345")),
    "a registration without consent": ("no_consent", lambda s: s.register(consents=[])),
    "a registration in a unit that nobody knows": ("unit_unknown", lambda s: s.register(unit_code="moon-office")),
    "an approval of a programme that nobody proposed": (
        "programme_not_proposed",
        lambda s: s.post(s.stage.deputy(), f"/programmes/{NOBODY}/approve", {}),
    ),
    "a second registration": (
        "already_registered",
        lambda s: s.post(s.stage.self_("registration", s.ann.id), "/volunteers", s.stage.registration("安一")),
    ),
    "registering somebody else as a volunteer": ("not_own_record", lambda s: s.register(volunteer_id=str(s.ann.id))),
    "a volunteer id that nobody has": ("volunteer_unknown", lambda s: s.enroll(NOBODY, s.full.id)),
    "an activity id that nobody has": ("activity_unknown", lambda s: s.enroll(s.cyd.id, NOBODY)),
    "an id that is no UUID": (
        "id_invalid",
        lambda s: s.post(s.stage.leader("registration"), "/activities/seven/hold", {"result": "done"}),
    ),
    "an activity that ends before it starts": ("end_before_start", lambda s: s.publish("12:00", "09:00")),
    "an activity that ends when it starts": ("end_before_start", lambda s: s.publish("09:00", "09:00")),
    "an activity in the past": ("start_in_past", lambda s: s.publish("08:00", "23:00", days=0)),
    "an activity under a word that the programme does not know": (
        "programme_word_unknown",
        lambda s: s.publish("09:00", "10:00", carrier="moon-flight"),
    ),
    "an activity of another unit": ("wrong_unit", lambda s: s.publish("09:00", "10:00", unit=OTHER_UNIT)),
    "a start without an offset from UTC": (
        "field_wrong_value",
        lambda s: s.publish("09:00", "10:00", starts_at="2017-05-01T09:00:00"),
    ),
    "an activity at the end of the calendar": (
        "field_wrong_value",
        lambda s: s.publish("09:00", "10:00", starts_at="9999-12-31T23:59:59Z"),
    ),
    "risk without insurance": ("insurance_missing", lambda s: s.publish("09:00", "10:00", has_risk=True)),
    "an activity whose seats and wait-list are full": ("activity_full", lambda s: s.enroll(s.cyd.id, s.full.id)),
    "a seat where one has a seat": ("already_enrolled", lambda s: s.enroll(s.ann.id, s.full.id)),
    "a place on the wait-list where one waits": ("already_enrolled", lambda s: s.enroll(s.ben.id, s.full.id)),
    "a seat at a time that is taken by another": ("time_clash", lambda s: s.enroll(s.ann.id, s.clashing.id)),
    "a seat in a position that is not there": ("position_unknown", lambda s: s.enroll(s.cyd.id, s.full.id, "captain")),
    "a seat in an activity that was cancelled": ("activity_cancelled", lambda s: s.enroll(s.cyd.id, s.cancelled.id)),
    "a seat once it has started": ("activity_started", lambda s: s.enroll(s.cyd.id, s.long.id)),
    "accepting what nobody offered": (
        "no_offer",
        lambda s: s.post(
            s.stage.self_("registration", s.ben.id), f"/activities/{s.full.id}/enrollments/{s.ben.id}/accept", {}
        ),
    ),
    "fewer seats than are taken": (
        "capacity_below_seats_given",
        lambda s: s.post(s.stage.leader("registration"), f"/activities/{s.full.id}/capacity", {"position": "cleaner", "capacity": 0}),
    ),
    "a stale version": (
        "version_stale",
        lambda s: s.post(
            s.stage.leader("registration"), f"/activities/{s.full.id}/cancel", {"reason": "rain"}, If_Match='"1"'
        ),
    ),
    # hours
    "a check-out before the check-in": ("not_checked_in", lambda s: s.door("check-out", s.ann.id, s.full.id)),
    "a check-in while one is checked in": ("already_checked_in", lambda s: s.door("check-in", s.fay.id, s.long.id)),
    "a check-out at the instant of the check-in": ("ends_before_start", lambda s: s.door("check-out", s.fay.id, s.long.id)),
    "a check-in the day before": ("too_early", lambda s: s.door("check-in", s.ann.id, s.full.id)),
    "a check-in without a seat": ("not_enrolled", lambda s: s.door("check-in", s.cyd.id, s.long.id)),
    "a check-in of nobody": ("volunteer_unknown", lambda s: s.door("check-in", NOBODY, s.long.id)),
    "a check-in at no activity": ("activity_unknown", lambda s: s.door("check-in", s.ann.id, NOBODY)),
    "a check-in of oneself": (
        "recorder_is_subject",
        lambda s: s.door("check-in", s.cyd.id, s.long.id, s.hours(s.cyd.id, "kiosk")),
    ),
    "a check-in at another unit's door": (
        "wrong_unit",
        lambda s: s.door("check-in", s.cyd.id, s.long.id, s.hours("签到机", "kiosk", OTHER_UNIT)),
    ),
    "a confirmation of one's own hours": (
        "approver_is_subject",
        lambda s: s.entry("confirm", s.noon_entry, s.hours(s.dan.id, "unit_admin")),
    ),
    "a confirmation by who recorded it": (
        "approver_is_recorder",
        lambda s: s.entry("confirm", s.noon_entry, s.hours(s.noon_entry["recorder_id"], "unit_admin")),
    ),
    "a confirmation by another unit": (
        "wrong_unit",
        lambda s: s.entry("confirm", s.noon_entry, s.stage.leader("hours", OTHER_UNIT)),
    ),
    "a confirmation of service that overlaps": ("overlapping_service", lambda s: s.entry("confirm", s.noon_entry)),
    "a confirmation of what counts already": ("already_confirmed", lambda s: s.entry("confirm", s.morning_entry)),
    "a confirmation of an entry that is not there": (
        "entry_unknown",
        lambda s: s.entry("confirm", {**s.noon_entry, "entry_id": NOBODY}),
    ),
    "a confirmation under another year": ("entry_unknown", lambda s: s.entry("confirm", s.noon_entry, served_on="2018-01-01")),
    "a day that is not in the calendar": ("field_wrong_type", lambda s: s.entry("confirm", s.noon_entry, served_on="2017-02-30")),
    "a correction that ends before it starts": ("ends_before_start", lambda s: s.correct("10:00", "08:00")),
    "a correction into another civil day": ("interval_outside_day", lambda s: s.correct("08:00", "10:00", days=-1)),
    "a correction beyond the activity": ("interval_outside_activity", lambda s: s.correct("06:00", "10:00")),
    "a correction into the future": ("ends_in_future", lambda s: s.correct("08:00", "11:45")),
    "a correction by who asked for it": (
        "approver_is_requester",
        lambda s: s.entry("reverse", s.noon_entry, s.hours(NOBODY, "unit_admin"), reason="duplicate", requester_id=str(NOBODY)),
    ),
    "a correction that nobody asked for who was there": (
        "requester_unknown",
        lambda s: s.entry("reverse", s.noon_entry, reason="duplicate", requester_id=str(NOBODY)),
    ),
    "a policy file with a wrong line": (
        "policy_file_wrong",
        lambda s: s.post(s.stage.bureau("hours"), "/hours-policies", {"file": "version: a\ndaily_cap_minutes: many\n"}),
    ),
    # recognition
    "a star for somebody else": (
        "not_own_record",
        lambda s: s.post(s.stage.self_("recognition", s.cyd.id), f"/volunteers/{s.dan.id}/stars", {}),
    ),
    "a star for nobody": ("not_a_volunteer", lambda s: s.post(s.stage.bureau("recognition"), f"/volunteers/{NOBODY}/stars", {})),
    "a star before those that come first": (
        "star_out_of_order",
        lambda s: s.post(s.stage.self_("recognition", s.dan.id), f"/volunteers/{s.dan.id}/stars", {"stars": 3}),
    ),
    "a star of number zero": (
        "field_wrong_value",
        lambda s: s.post(s.stage.self_("recognition", s.dan.id), f"/volunteers/{s.dan.id}/stars", {"stars": 0}),
    ),
    "a star that is half a number": (
        "field_wrong_type",
        lambda s: s.post(s.stage.self_("recognition", s.dan.id), f"/volunteers/{s.dan.id}/stars", {"stars": 1.5}),
    ),
    "a star for true": (
        "field_wrong_type",
        lambda s: s.post(s.stage.self_("recognition", s.dan.id), f"/volunteers/{s.dan.id}/stars", {"stars": True}),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("code", "act"), REFUSED.values(), ids=REFUSED)
async def test_what_the_rules_do_not_allow(
    stage: Stage, scene: Scene, documents: dict[int, Documents], code: str, act: Case, heads: Heads
) -> None:
    before = await heads()
    answer = await act(scene)
    documents[answer.request.url.port or 0].check(answer, code)
    assert await heads() == before


async def test_a_programme_file_is_told_its_wrong_lines_and_nothing_of_it_is_imported(
    stage: Stage, scene: Scene, documents: dict[int, Documents], heads: Heads
) -> None:
    before = await heads()
    file = "programme:\n  year: 2018\n  title: 方案\nunits:\n  - code: NOT A CODE\n    name: 甲\n"
    answer = await scene.post(stage.bureau("registration"), "/programmes", {"file": file})
    documents[answer.request.url.port or 0].check(answer, "programme_file_invalid")
    problems = answer.json()["values"]["problems"]
    assert "line 1: carriers" in problems
    assert "line 5: units.0.valid_from" in problems
    assert await heads() == before


# --- The same key again -------------------------------------------------------------------------------------------------------------


async def test_a_repeat_of_an_accepted_command_gets_the_same_bytes_and_leaves_no_second_event(
    stage: Stage, scene: Scene, heads: Heads
) -> None:
    key, path = uuid4().hex, "/activities"
    body = stage.plan(on(scene.today + timedelta(days=1), "18:00"), on(scene.today + timedelta(days=1), "19:00"))
    first = await command(stage.leader("registration"), path, body, key=key)
    accepted(first)
    before = await heads()
    shuffled = dict(reversed(body.items()))
    for again in (body, shuffled):
        repeat = await command(stage.leader("registration"), path, again, key=key)
        assert (repeat.status_code, repeat.content) == (200, first.content)
        assert repeat.headers["idempotency-replayed"] == "true"
        assert repeat.headers["position"] == first.headers["position"]
    assert "idempotency-replayed" not in first.headers
    assert await heads() == before


async def test_a_repeat_of_a_refused_command_gets_the_same_bytes(stage: Stage, scene: Scene) -> None:
    key, path = uuid4().hex, f"/activities/{scene.full.id}/enrollments"
    asking = stage.self_("registration", scene.cyd.id)
    first, repeat = [await command(asking, path, {"volunteer_id": str(scene.cyd.id), "position": "cleaner"}, key=key) for _ in range(2)]
    assert first.json()["code"] == "activity_full"
    assert (repeat.status_code, repeat.content) == (first.status_code, first.content)
    assert repeat.headers["idempotency-replayed"] == "true"


async def test_a_key_with_another_body_or_at_another_address_is_refused(
    stage: Stage, scene: Scene, documents: dict[int, Documents], heads: Heads
) -> None:
    key = uuid4().hex
    body = stage.plan(on(scene.today + timedelta(days=1), "20:00"), on(scene.today + timedelta(days=1), "21:00"))
    leader = stage.leader("registration")
    first = accepted(await command(leader, "/activities", body, key=key))
    before = await heads()
    for path, other in (
        ("/activities", {**body, "title": "扫雪"}),
        (f"/activities/{stream_id(first)}/cancel", {"reason": "no"}),
    ):
        answer = await command(leader, path, other, key=key)
        documents[answer.request.url.port or 0].check(answer, "idempotency_key_reused")
    assert await heads() == before


async def test_a_key_belongs_to_the_person_who_used_it(stage: Stage) -> None:
    key = uuid4().hex
    one, other = [
        accepted(await command(stage.self_("registration", uuid4()), "/volunteers", stage.registration(name), key=key))
        for name in ("甲乙", "丙丁")
    ]
    assert one["stream"] != other["stream"]


async def test_the_version_that_is_named_counts_when_it_is_the_newest(stage: Stage) -> None:
    day = await stage.day()
    activity = await stage.activity(on(day, "09:00"), on(day, "10:00"))
    leader = stage.leader("registration")
    changed = await command(leader, f"/activities/{activity.id}/capacity", {"position": "cleaner", "capacity": 6}, If_Match='"1"')
    assert accepted(changed)["version"] == 2
    assert changed.headers["etag"] == '"2"'


# --- Midnight -----------------------------------------------------------------------------------------------------------------------


async def test_service_across_midnight_in_shanghai_is_an_entry_of_each_civil_day(stage: Stage) -> None:
    evening, morning = await stage.day(), await stage.day()
    volunteer = await stage.volunteer("夜行者")
    activity = await stage.activity(on(evening, "22:00"), on(morning, "02:00"))
    seat = await stage.enroll(volunteer, activity)
    await stage.stack.travel(on(evening, "22:30"))
    accepted(await stage.door("check-in", volunteer, activity, After=seat["position"]))
    await stage.stack.travel(on(morning, "01:15"))
    accepted(await stage.door("check-out", volunteer, activity))
    entries = await stage.waiting(volunteer, activity)
    assert {(each["served_on"], each["minutes"]) for each in entries} == {(evening.isoformat(), 90), (morning.isoformat(), 75)}
    for each in entries:
        await stage.confirm(each)
    await stage.stack.settled()
    days = await rows(stage.leader("hours"), "/ledger", volunteer=str(volunteer.id))
    assert {(each["served_on"], each["timed_minutes"]) for each in days} == {(evening.isoformat(), 90), (morning.isoformat(), 75)}


# --- And afterwards -----------------------------------------------------------------------------------------------------------------


async def test_none_of_it_was_unforeseen_and_all_processes_are_well(stage: Stage) -> None:
    for name in stage.stack.processes:
        lines = [json.loads(line) for line in (stage.stack.folder / f"{name}.log").read_text().splitlines() if line.startswith("{")]
        ours = [each for each in lines if "logger" not in each]  # A Kafka client complains at start, while topics are made.
        assert [each for each in ours if each["event"].startswith("unforeseen") or each["level"] in {"error", "critical"}] == []
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            assert (await client.get(f"{stage.stack.url(name)}/readyz")).status_code == 200
