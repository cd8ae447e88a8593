"""Reads on the running services: pages, filters, freshness, one's own writes elsewhere, past totals, what is behind a total, SQL."""

import json
import operator
import re
import signal
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from deploy.local.environment import SERVICES, base_url
from services.hours import main as hours
from services.recognition import main as recognition
from services.registration import main as registration
from shared.contracts.topics import CATEGORIES, subscribed
from shared.http.problems import MEDIA_TYPE
from shared.http.query import Filter, Query, write_cursor
from tests.e2e.stack import Stack, command
from tests.e2e.stage import OTHER_UNIT, UNIT, Stage, Volunteer, accepted, on, rows
from tests.integration.http.test_pages import Outline
from tests.loopback import NO_TLS

Row = dict[str, Any]

QUERIES: Final[Mapping[str, tuple[str, Query]]] = {
    f"{each.name}/{query.name}": (each.name, query)
    for each in (registration.SERVICE, hours.SERVICE, recognition.SERVICE)
    for query in each.queries
}
NOBODY: Final = UUID("0197f3a4-5c00-7000-8000-0000000000fe")
JUST_NOW_S: Final = 20.0
"""Heads are said every two seconds; the rest is a busy machine."""


@dataclass(frozen=True)
class Scene:
    """Eve served two hours on `first` and one on `second`, both count. Gil and Ida served an hour on `first`, which waits for approval."""

    first: date
    second: date
    before_any: datetime
    eve: Volunteer
    gil: Volunteer
    waiting: Row


@pytest.fixture(scope="module")
async def scene(stage: Stage) -> Scene:
    first, second = await stage.day(), await stage.day()
    eve, gil, ida = [await stage.volunteer(name) for name in ("叶六", "甘七", "易九")]
    other = stage.self_("registration", uuid4())
    named = stage.registration("何八", unit_code=OTHER_UNIT, consents=["register", "be_named"])
    after = accepted(await command(other, "/volunteers", named))["position"]
    plan = stage.plan(on(second, "09:00"), on(second, "10:00"), unit_code=OTHER_UNIT, carrier="tree-planting")
    elsewhere = accepted(await command(stage.leader("registration", OTHER_UNIT), "/activities", plan, After=after))
    await command(stage.leader("registration", OTHER_UNIT), f"/{elsewhere['stream'].replace('-', '/', 1)}/cancel", {"reason": "frost"})
    accepted(await command(stage.bureau("registration"), f"/people/{uuid4()}/roles", {"role": "auditor", "unit_code": OTHER_UNIT}))

    long = await stage.activity(on(first, "09:00"), on(first, "11:00"))
    short = await stage.activity(on(first, "11:30"), on(first, "12:30"))
    late = await stage.activity(on(first, "14:00"), on(first, "15:00"))
    again = await stage.activity(on(second, "09:00"), on(second, "10:00"), 1, 1)
    entry = await stage.served(eve, long, on(first, "09:00"), on(first, "11:00"))
    before_any = on(first, "11:00")
    waiting = await stage.served(gil, short, on(first, "11:30"), on(first, "12:30"))
    await stage.served(ida, late, on(first, "14:00"), on(first, "15:00"))
    after = (await stage.confirm(entry))["position"]
    for who in (eve, gil):  # Granted, and declined.
        accepted(await command(stage.self_("recognition", who.id), f"/volunteers/{who.id}/stars", {}, After=after))
    entry = await stage.served(eve, again, on(second, "09:00"), on(second, "10:00"))
    await stage.confirm(entry)
    doubted = {"stars": 1, "reason_code": "false_record"}  # Nobody has decided of it: the star stays.
    accepted(await command(stage.bureau("recognition"), f"/volunteers/{eve.id}/revocations", doubted))
    leaver = await stage.volunteer("郑十")
    accepted(await command(stage.self_("registration", leaver.id), f"/volunteers/{leaver.id}/erasure", {}))
    accepted(await command(stage.bureau("registration"), f"/volunteers/{leaver.id}/erasure/approve", {}))
    device = {"unit_code": UNIT, "name": "东门签到机", "key_digest": sha256(uuid4().bytes).hexdigest(), "networks": ["10.20.0.0/16"]}
    accepted(await command(stage.leader("registration"), "/devices", device))
    await stage.stack.settled()
    for service in SERVICES:  # Each keeps who has read of a person.
        assert (await stage.self_(service, eve.id).get(f"/api/v1/volunteers/{eve.id}/copy")).status_code == 200
    return Scene(first, second, before_any, eve, gil, waiting)


async def walked(client: httpx.AsyncClient, query: Query, limit: int, **filters: str) -> list[Row]:
    """All rows, page by page."""
    found: list[Row] = []
    cursor: str | None = None
    while True:
        given = {**filters, "limit": str(limit), **({"cursor": cursor} if cursor else {})}
        answer = await client.get(f"/api/v1{query.path}", params=given)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= limit
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            return found


@pytest.mark.parametrize(("service", "query"), QUERIES.values(), ids=QUERIES)
@pytest.mark.usefixtures("scene")
async def test_walking_the_pages_gives_every_row_once(stage: Stage, service: str, query: Query) -> None:
    client = stage.bureau(service)
    whole = await walked(client, query, 200)
    assert whole
    assert len({str(row) for row in whole}) == len(whole)
    assert await walked(client, query, max(1, len(whole) // 3)) == whole


COMPARED: Final[Mapping[tuple[str, str], tuple[str, Callable[[Any, Any], bool]]]] = {
    ("activities", "from"): ("starts_at", operator.ge),
    ("unit_months", "from"): ("month", operator.ge),
    ("unit_months", "to"): ("month", operator.le),
    ("volunteer_overview", "stars"): ("stars", operator.ge),
}
"""Filters that say more than "equal to the column of that name"."""
FILTERS: Final = {
    f"{name}?{each.name}": (service, query, each.name)
    for name, (service, query) in QUERIES.items()
    for each in query.filters
    if query.name != "totals" or each.name in {"volunteer", "year"}  # The others change the sums: tests of their own.
    if (query.name, each.name) != ("personal_data_reads", "subject")  # One among several persons of a row; tried where reads are.
}


@pytest.mark.parametrize(("service", "query", "name"), FILTERS.values(), ids=FILTERS)
@pytest.mark.usefixtures("scene")
async def test_a_filter_gives_exactly_the_rows_that_it_names(stage: Stage, service: str, query: Query, name: str) -> None:
    client = stage.bureau(service)
    columns = {each.name for each in query.columns}
    equal = next((each for each in (f"{name}_code", f"{name}_id", name) if each in columns), "")
    column, holds = COMPARED.get((query.name, name), (equal, operator.eq))
    whole = await walked(client, query, 200)
    values = sorted({row[column] for row in whole})
    for value in (values[0], values[-1]):
        assert await walked(client, query, 200, **{name: str(value)}) == [row for row in whole if holds(row[column], value)]
    if holds is operator.eq:
        absent = {"uuid": str(NOBODY), "integer": "7"}.get(next(each.kind for each in query.filters if each.name == name), "nothing-such")
        answer = await client.get(f"/api/v1{query.path}", params={name: absent})
        assert answer.status_code == 400 or answer.json()["items"] == []


@pytest.mark.parametrize(("service", "query"), QUERIES.values(), ids=QUERIES)
async def test_every_answer_says_how_fresh_it_is(stage: Stage, service: str, query: Query) -> None:
    await stage.stack.settled()
    answer = await stage.bureau(service).get(f"/api/v1{query.path}", params={"limit": "1"})
    said = answer.json()["freshness"]
    assert said.keys() == subscribed(f"{service}.views").keys()
    for source, fresh in said.items():
        assert fresh["applied"] == (await stage.stack.sql(source, "SELECT max(position) AS head FROM es.event"))[0]["head"]
        assert fresh["behind_events"] == 0
        assert datetime.now(UTC) - datetime.fromisoformat(fresh["as_of"]) < timedelta(seconds=JUST_NOW_S)
        assert f"{source};applied={fresh['applied']};head={fresh['head']};behind=0" in answer.headers.get_list("freshness")
        assert f"{source}:{fresh['log_id']}:{fresh['applied']}" in answer.headers.get_list("position")


@asynccontextmanager
async def stopped(stack: Stack, name: str) -> AsyncIterator[None]:
    """The process is held for a while: nothing it does goes on."""
    stack.processes[name].send(signal.SIGSTOP)
    try:
        yield
    finally:
        stack.processes[name].send(signal.SIGCONT)


async def test_what_was_written_in_one_service_is_waited_for_in_another(stage: Stage, scene: Scene) -> None:
    path, admin = "/api/v1/volunteer-overview", stage.bureau("registration")
    async with stopped(stage.stack, "registration-worker"):
        after = (await stage.confirm(scene.waiting))["position"]
        early = await admin.get(path, headers={"After": after})
        assert (early.status_code, early.json()["code"]) == (409, "not_caught_up")
        assert int(early.headers["retry-after"]) >= 1
        unasked = await admin.get(path)
        assert [row["timed_minutes"] for row in unasked.json()["items"] if row["volunteer_id"] == str(scene.gil.id)] == [0]
    end = time.monotonic() + 20
    while (answer := await admin.get(path, headers={"After": after})).status_code == 409:
        assert time.monotonic() < end
    assert [row["timed_minutes"] for row in answer.json()["items"] if row["volunteer_id"] == str(scene.gil.id)] == [60]


async def test_a_command_waits_for_what_another_service_has_just_said(stage: Stage) -> None:
    day = await stage.day()
    volunteer, activity = await stage.volunteer("急行者"), await stage.activity(on(day, "09:00"), on(day, "10:00"))
    seat = await stage.enroll(volunteer, activity)
    await stage.stack.settled()
    await stage.stack.travel(on(day, "09:00"))
    async with stopped(stage.stack, "hours-worker"):
        leader, path = stage.leader("registration"), f"/activities/{activity.id}/cancel"
        after = accepted(await command(leader, path, {"reason": "hail"}, After=seat["position"]))["position"]
        early = await stage.door("check-in", volunteer, activity, After=after)
        assert early.json()["code"] == "not_caught_up"
    end = time.monotonic() + 20
    while (answer := await stage.door("check-in", volunteer, activity, After=after)).json()["code"] == "not_caught_up":
        assert time.monotonic() < end
    assert answer.json()["code"] == "activity_cancelled"


async def test_a_token_of_another_log_is_refused_by_queries_and_commands(stage: Stage) -> None:
    query = await stage.bureau("registration").get("/api/v1/volunteer-overview", headers={"After": f"hours:{NOBODY}:1"})
    enroll = f"/activities/{NOBODY}/enrollments"
    body = {"volunteer_id": str(NOBODY), "position": "cleaner"}
    asked = await command(stage.self_("registration", NOBODY), enroll, body, After=f"registration:{NOBODY}:1")
    for answer in (query, asked):
        assert (answer.status_code, answer.json()["code"]) == (409, "after_foreign_log")


async def test_totals_are_told_as_of_a_past_day_and_a_past_moment(stage: Stage, scene: Scene) -> None:
    async def total(**when: str) -> list[int]:
        found = await rows(stage.bureau("hours"), "/totals", volunteer=str(scene.eve.id), **when)
        return [each["credited_minutes"] for each in found]

    assert await total() == [180]
    assert await total(as_of_day=scene.second.isoformat()) == [180]
    assert await total(as_of_day=scene.first.isoformat()) == [120]
    assert await total(as_of_day=(scene.first - timedelta(days=1)).isoformat()) == []
    assert await total(as_of=scene.before_any.isoformat()) == []
    assert await total(as_of=on(scene.first, "23:00").isoformat()) == [120]


async def test_a_total_in_one_unit_counts_what_was_served_there(stage: Stage, scene: Scene) -> None:
    for unit, minutes in ((UNIT, [180]), (OTHER_UNIT, [])):
        found = await rows(stage.bureau("hours"), "/totals", volunteer=str(scene.eve.id), unit=unit)
        assert [each["credited_minutes"] for each in found] == minutes


async def test_a_total_opens_into_the_events_that_it_is_the_sum_of(stage: Stage, scene: Scene) -> None:
    [total] = await rows(stage.bureau("hours"), "/totals", volunteer=str(scene.eve.id))
    events = (await stage.bureau("hours").get(total["details"])).json()["items"]
    assert [each["version"] for each in events] == list(range(1, len(events) + 1))
    posted = [posting for each in events for posting in each["payload"].get("postings", ())]
    assert sum(each["minutes"] for each in posted if each["account"] == "timed") == total["timed_minutes"] == 180
    assert sum(each["minutes"] for each in posted) == 0


DETAILED: Final = {name: each for name, each in QUERIES.items() if each[1].details}


@pytest.mark.parametrize(("service", "query"), DETAILED.values(), ids=DETAILED)
async def test_every_row_opens_into_events_that_name_nobody(stage: Stage, scene: Scene, service: str, query: Query) -> None:
    found = ""
    for details in {row["details"] for row in await walked(stage.bureau(service), query, 200)}:
        answer = await stage.bureau(service).get(details)
        assert answer.status_code == 200, answer.text
        assert answer.json()["items"]
        found += answer.text
    for who in (scene.eve, scene.gil):
        for clear in (who.name, who.id_number, who.phone):
            assert clear not in found
    if "streams/volunteer" in (query.details or "") and query.name != "erasures":  # What is sealed is there, and only sealed.
        assert found.count('"name":"[sealed]"') >= 4


async def seen_by_anybody(stage: Stage, service: str) -> tuple[str, dict[str, str]]:
    """All lists that are open, in both forms and both languages, and by stream what their rows open into."""
    lists, streams = "", dict[str, str]()
    async with httpx.AsyncClient(base_url=base_url(stage.stack.ports, service), timeout=10, verify=NO_TLS) as visitor:
        open_lists = [each.path for name, each in QUERIES.values() if name == service and each.public]
        pages = [f"/view{path}?limit=200" for path in open_lists]
        for page in ("/", "/?lang=en", "/?lang=zh", *pages, *(f"/api/v1{path}?limit=200" for path in open_lists)):
            answer = await visitor.get(page)
            assert answer.status_code == 200, page
            lists += answer.text
            links = Outline(answer.text).links if page in {"/", *pages} else []
            for link in {link for link in links if link.startswith("/view/streams/")} - streams.keys():
                opened = await visitor.get(link, params={"limit": "200"})
                assert opened.status_code == 200, link
                assert "没有事件" not in opened.text
                streams[link] = opened.text
    return lists, streams


@pytest.mark.parametrize("service", SERVICES)
async def test_a_visitor_meets_figures_and_nothing_else_of_a_person(stage: Stage, scene: Scene, service: str) -> None:
    lists, streams = await seen_by_anybody(stage, service)
    assert lists
    assert {link.split("/")[3].partition("-")[0] for link in streams} == {
        "registration": {"activity"}, "hours": {"account"}, "recognition": {"star"}
    }[service]  # fmt: skip
    told = (await stage.bureau(service).get("/api/v1/events", params={"limit": "200"})).json()
    payloads = [each["payload"] for each in told["items"]]
    people = {
        payload[name] for payload in payloads for name in ("recorder_id", "approver_id", "requester_id", "person_id") if name in payload
    }
    assert people or service == "recognition"
    registered = await stage.stack.sql("registration", "SELECT DISTINCT stream_id FROM es.event WHERE category = 'volunteer'")
    people -= {str(row["stream_id"]) for row in registered}  # Who also volunteers stands in the lists as a volunteer.
    opened = "".join(streams.values())
    for who in (scene.eve, scene.gil):
        for clear in (who.name, f"{who.name[0]}**", who.id_number, who.phone):
            assert clear not in lists + opened
    for person in people:
        assert person not in lists
        assert person[-8:] not in opened
    volunteers = {payload["volunteer_id"] for payload in payloads if "volunteer_id" in payload}
    assert str(scene.eve.id) in volunteers
    for volunteer in volunteers:
        assert volunteer[-8:] not in "".join(text.partition("<ol")[2] for text in streams.values())
    for said in ("frost", "be_named", "register<", "is_minor", "未成年", "sealed", "已密封", "原因"):
        assert said not in lists + opened, said


COMES_AND_GOES: Final = (
    "/attendances",
    "/confirm-queue",
    "/history",
    "/star-history",
    "/star-revocations",
    "/volunteers",
    "/enrollments",
    "/roles",
    "/devices",
    "/erasures",
    "/programme-proposals",
    "/proposed-units",
    "/personal-data-reads",
)
"""Lists that say of a person when they came, what waits, what was changed or declined and why, who read of whom; devices, and what is
proposed."""


@pytest.mark.parametrize(("service", "query"), QUERIES.values(), ids=QUERIES)
async def test_without_a_token_one_reads_what_is_open_and_with_any_other_the_same(stage: Stage, service: str, query: Query) -> None:
    assert query.public == (query.path not in COMES_AND_GOES)
    async with httpx.AsyncClient(base_url=base_url(stage.stack.ports, service), timeout=10, verify=NO_TLS) as visitor:
        path = f"/api/v1{query.path}?limit=200"
        bare = await visitor.get(path)
        asked = [await stage.client(service, NOBODY, role, UNIT).get(path) for role in ("volunteer", "kiosk")]
        page = await visitor.get(f"/view{query.path}")
    assert bare.headers["cache-control"] == page.headers["cache-control"] == "no-store"
    if query.public:
        assert (bare.status_code, page.status_code) == (200, 200)
        assert [(each.status_code, each.json()["items"]) for each in asked] == [(200, bare.json()["items"])] * 2
    else:
        assert (bare.status_code, page.status_code) == (401, 401)
        assert {each.status_code for each in asked} == {403}


@pytest.mark.parametrize(("service", "category"), [("registration", "volunteer"), ("registration", "role"), ("hours", "attendance")])
async def test_no_stream_of_one_person_is_on_the_page(stage: Stage, scene: Scene, service: str, category: str) -> None:
    log = (await stage.bureau(service).get("/api/v1/events", params={"limit": "200"})).json()["items"]
    stream = next(each["stream"] for each in log if each["stream"].startswith(f"{category}-"))
    async with httpx.AsyncClient(base_url=base_url(stage.stack.ports, service), timeout=10, verify=NO_TLS) as visitor:
        answer = await visitor.get(f"/view/streams/{stream}/events")
        twin = await visitor.get(f"/api/v1/streams/{stream}/events")
    assert (answer.status_code, twin.status_code) == (404, 401)
    assert "not_found" in answer.text


# --- Questions that are none --------------------------------------------------------------------------------------------------------

WRONG: Final[Mapping[str, Sequence[str]]] = {
    "instant": (
        "0001-01-01T00:00:00+08:00",
        "9999-12-31T23:59:59-08:00",
        "9999-12-31T23:59:59Z",
        "10000-01-01T00:00:00Z",
        "2017-03-05",
        "2017-03-05T08:00:00",
        "2017-03-05T25:00:00Z",
        "yesterday",
    ),
    "date": ("2017-02-30", "0000-01-01", "10000-01-01", "20170305", "2017-3-5", "infinity"),
    "integer": ("9223372036854775808", "-9223372036854775809", "9" * 19, "9" * 5000, "1.0", "1e3", "１", "--1", "+1", "NaN"),
    "uuid": ("seven", "0" * 36, "{0197f3a4-5c00-7000-8000-0000000000ff}", "0197f3a45c0070008000000000000000", "０" * 36),
    "boolean": ("yes", "1", "TRUE"),
    "text": ("x" * 201, "a\x00b"),
}
EXTREME: Final[Mapping[str, Sequence[str]]] = {
    "instant": ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00-12:00", "9999-12-31T15:59:59.999999Z"),
    "date": ("0001-01-01", "9999-12-31"),
    "integer": ("9223372036854775807", "-9223372036854775808", "0", "-0"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
    "boolean": (),
    "text": ("'; DROP TABLE x; --", "%", "\\", "𠮷" * 200, "\u202e"),
}
"""Nobody is there, but the question is one."""
ASKED: Final = {f"{name}?{each.name}": (service, query, each) for name, (service, query) in QUERIES.items() for each in query.filters}


@pytest.mark.parametrize(("service", "query", "asked"), ASKED.values(), ids=ASKED)
async def test_a_filter_with_any_value_is_a_wrong_parameter_or_an_answer(stage: Stage, service: str, query: Query, asked: Filter) -> None:
    client = stage.bureau(service)
    for value in ("", *WRONG[asked.kind]):
        answer = await client.get(f"/api/v1{query.path}", params={asked.name: value})
        assert (answer.status_code, answer.headers["content-type"]) == (400, MEDIA_TYPE), (value[:40], answer.text[:200])
        assert (answer.json()["code"], answer.json()["parameter"]) == ("parameter_invalid", asked.name)
        if query.public and value and not (asked.kind == "instant" and value == "2017-03-05T08:00:00"):  # A form says it so.
            page = await client.get(f"/view{query.path}", params={asked.name: value})
            assert (page.status_code, "parameter_invalid" in page.text) == (400, True), value[:40]
    for value in EXTREME[asked.kind]:
        for path in (f"/api/v1{query.path}", *([f"/view{query.path}"] if query.public else [])):
            answer = await client.get(path, params={asked.name: value})
            assert answer.status_code == 200, (path, value[:40], answer.text[:200])


BY_KIND: Final[Mapping[str, Sequence[Any]]] = {
    "instant": ("0001-01-01T00:00:00+08:00", "9999-12-31T23:59:59-08:00", 7, []),
    "date": ("2017-02-30", 7),
    "integer": (2**63, -(2**63) - 1, 10**5000, 1.5, "x", {}),
    "uuid": ("seven", 7, {}),
    "boolean": ("yes", 2),
    "text": ("x" * 201, "a\x00b", ""),
}
"""What a cursor made by hand may hold."""


@pytest.mark.parametrize(("service", "query"), QUERIES.values(), ids=QUERIES)
async def test_a_cursor_made_by_hand_is_refused(stage: Stage, scene: Scene, service: str, query: Query) -> None:
    client, path = stage.bureau(service), f"/api/v1{query.path}"
    first = (await client.get(path, params={"limit": "1"})).json()
    last = [_cursor_text(first["items"][0][name]) for name in query.order]
    good = write_cursor(query, {}, last)
    assert (await client.get(path, params={"cursor": good})).status_code == 200
    stamp = json.loads(urlsafe_b64decode(good + "=="))[0]
    for index, kind in enumerate(query.kinds()):
        for value in BY_KIND[kind]:
            forged = [stamp, *last[:index], value, *last[index + 1 :]]
            sent = urlsafe_b64encode(_json(forged).encode()).decode().rstrip("=")
            answer = await client.get(path, params={"cursor": sent})
            assert (answer.status_code, answer.json().get("code")) == (400, "cursor_invalid"), str(forged)[:200]
    for text in (good[:-3], good + "A", "W10", "bnVsbA", "é", "[" * 3000):
        assert (await client.get(path, params={"cursor": text})).json().get("code") == "cursor_invalid", text[:40]


def _cursor_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def _json(said: list[Any]) -> str:
    """JSON, with integers of any length."""
    return "[" + ",".join("1" + "0" * 5000 if each == 10**5000 else json.dumps(each) for each in said) + "]"


@pytest.mark.parametrize("service", SERVICES)
async def test_a_place_in_a_log_or_a_stream_that_is_none_is_a_wrong_parameter(stage: Stage, service: str) -> None:
    client = stage.bureau(service)
    for path in ("/api/v1/events", f"/api/v1/streams/{next(n for n, c in CATEGORIES.items() if c.service == service)}-{NOBODY}/events"):
        for asked in (
            {"after": "-1"},
            {"after": "9" * 19},
            {"after": "１"},
            {"after": ""},
            {"limit": "0"},
            {"limit": "201"},
            {"limit": "9" * 400},
        ):
            answer = await client.get(path, params=asked)
            assert (answer.status_code, answer.json()["code"]) == (400, "parameter_invalid"), (path, str(asked)[:60])
        assert (await client.get(path, params={"after": "9" * 18})).json() == {"items": [], "next_after": None}


# --- As an admin, in SQL ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=SERVICES)
async def reader(request: pytest.FixtureRequest, stack: Stack) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A session of a read-only role in one service's database, that sees every unit."""
    service: str = request.param
    connection = await asyncpg.connect(stack.dsn(service, "admin"), timeout=5)
    await connection.execute(f"SET ROLE \"{stack.database(service)}_query\"; SET leifeng.reach = 'bureau'")
    yield connection
    await connection.close(timeout=5)


_RELATIONS: Final = """
    SELECT format('%I.%I', space.nspname, relation.relname) AS name, relation.oid, space.nspname = 'api' AS is_api
    FROM pg_class AS relation JOIN pg_namespace AS space ON space.oid = relation.relnamespace
    WHERE relation.relkind IN ('r', 'v', 'm', 'p') AND space.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    ORDER BY 1
"""


@pytest.mark.usefixtures("scene")
async def test_the_reader_sees_every_view_of_api_and_nothing_else(reader: "asyncpg.Connection[asyncpg.Record]") -> None:
    relations = await reader.fetch(_RELATIONS)
    assert {each["name"].partition(".")[0] for each in relations} >= {"api", "es", "keys", "consumer", "lookup", "views_1"}
    for each in relations:
        if each["is_api"]:
            await reader.fetch(f"SELECT * FROM {each['name']} LIMIT 5")
        else:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.fetch(f"SELECT * FROM {each['name']} LIMIT 5")


async def test_the_reader_changes_nothing(reader: "asyncpg.Connection[asyncpg.Record]") -> None:
    for statement in (
        "CREATE TABLE api.mine (n int)",
        "CREATE TABLE public.mine (n int)",
        "CREATE SCHEMA mine",
        "DELETE FROM api.freshness",
    ):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError)):
            await reader.execute(statement)


async def test_every_view_and_column_says_what_it_is_in_both_languages(reader: "asyncpg.Connection[asyncpg.Record]") -> None:
    found = await reader.fetch("""
        SELECT format('%s.%s', relation.relname, attribute.attname) AS name, col_description(relation.oid, attribute.attnum) AS said
        FROM pg_class AS relation
        JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid AND attribute.attnum > 0
        WHERE relation.relnamespace = 'api'::regnamespace
        UNION ALL
        SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE relnamespace = 'api'::regnamespace
    """)
    assert len(found) > 20
    both = re.compile(r"[^/]*[\u4e00-\u9fff].* / .*[A-Za-z]{3}.*", re.DOTALL)
    assert [row["name"] for row in found if row["said"] is None or not both.fullmatch(row["said"])] == []


async def test_no_view_shows_a_name_or_a_number_beyond_its_mask(reader: "asyncpg.Connection[asyncpg.Record]", scene: Scene) -> None:
    shown = ""
    for each in await reader.fetch(_RELATIONS):
        if each["is_api"]:
            found = await reader.fetch(f"SELECT to_jsonb(shown)::text AS row FROM {each['name']} AS shown")
            shown += "\n".join(row["row"] for row in found)
    for volunteer in (scene.eve, scene.gil):
        for clear in (volunteer.name, volunteer.id_number, volunteer.phone):
            assert clear not in shown
    if "masked_name" in shown:
        assert f'"{scene.eve.name[0]}**"' in shown


async def test_the_clear_name_is_there_for_who_may_see_it_so_the_mask_is_what_hides_it(stack: Stack, scene: Scene) -> None:
    schemas = await stack.sql("registration", r"SELECT nspname FROM pg_namespace WHERE nspname LIKE 'views\_%'")
    clear = [
        await stack.sql("registration", f"SELECT name FROM {name}.volunteers WHERE volunteer_id = $1", scene.eve.id) for (name,) in schemas
    ]
    assert (scene.eve.name,) in [tuple(row) for rows_ in clear for row in rows_]
