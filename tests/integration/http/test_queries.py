"""Queries through the real application, on views in a real PostgreSQL."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import pytest

from shared.audit import PersonalRead
from shared.http.api import Api
from shared.http.app import build_app
from shared.permissions import EVERYBODY, Role
from tests.integration.http.conftest import ACTIVITY, PERSON, Follow, TinyStore, Told, Withdrawn
from tests.integration.http.seats import BALANCES, LOG_ID, NOW, PEOPLE
from tests.integration.http.test_commands import SEATS, check_problem, key, seat

Client = httpx.AsyncClient


async def test_a_page_comes_with_rows_freshness_and_the_way_on(client: Client) -> None:
    client.headers.pop("Authorization")
    answer = await client.get("/api/v1/balances?limit=2")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["items"][0] == {
        "unit_code": "unit-0",
        "volunteer_id": "0197f3a4-5c00-7000-8000-000000000003",
        "minutes": 135,
        "seen_at": None,
        "account_id": str(ACTIVITY),
        "details": f"/api/v1/streams/activity-{ACTIVITY}/events",
    }
    assert body["freshness"]["hours"] == {
        "log_id": str(LOG_ID),
        "applied": 12,
        "head": 14,
        "behind_events": 2,
        "as_of": NOW.isoformat().replace("+00:00", "Z"),
        "discarded": 0,
        "stopped": None,
    }
    assert body["parked"] == []
    assert answer.headers.get_list("freshness") == ["hours;applied=12;head=14;behind=2", "registration;applied=3;head=3;behind=0"]
    assert answer.headers.get_list("position") == [f"hours:{LOG_ID}:12", f"registration:{LOG_ID}:3"]
    assert f"cursor={body['next']}" in answer.headers["link"]


async def test_walking_the_pages_meets_every_row_once_in_order(client: Client) -> None:
    client.headers.pop("Authorization")
    seen: list[tuple[str, str]] = []
    path: str | None = "/api/v1/balances?limit=9"
    while path:
        answer = await client.get(path)
        seen += [(each["unit_code"], each["volunteer_id"]) for each in answer.json()["items"]]
        path = answer.links["next"]["url"] if "next" in answer.links else None
    assert len(seen) == 70
    assert seen == sorted(set(seen))


async def test_a_filter_narrows_the_rows_and_the_cursor_belongs_to_it(client: Client) -> None:
    client.headers.pop("Authorization")
    first = (await client.get("/api/v1/balances", params={"unit": "unit-1", "limit": 20})).json()
    rest = (await client.get("/api/v1/balances", params={"unit": "unit-1", "limit": 20, "cursor": first["next"]})).json()
    assert {each["unit_code"] for each in first["items"] + rest["items"]} == {"unit-1"}
    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (20, 4, None)
    check_problem(await client.get("/api/v1/balances", params={"unit": "unit-2", "cursor": first["next"]}), 400, "cursor_invalid")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("limit=0", "parameter_invalid"),
        ("limit=201", "parameter_invalid"),
        ("limit=abc", "parameter_invalid"),
        ("unit=", "parameter_invalid"),
        ("unit=%00", "parameter_invalid"),
        ("unit=a&unit=b", "parameter_repeated"),
        ("sort=minutes", "parameter_unknown"),
        ("cursor=abc", "cursor_invalid"),
    ],
)
async def test_a_wrong_parameter_meets_its_code(client: Client, asked: str, code: str) -> None:
    client.headers.pop("Authorization")
    check_problem(await client.get(f"/api/v1/balances?{asked}"), 400, code)


async def test_a_list_with_names_asks_who_reads(client: Client, token: Callable[..., str]) -> None:
    check_problem(await client.get("/api/v1/people"), 403, "role_not_allowed")
    answer = await client.get("/api/v1/people", headers={"Authorization": token("bureau_admin")})
    assert [each["name"] for each in answer.json()["items"]] == ["赵大山"]
    client.headers.pop("Authorization")
    check_problem(await client.get("/api/v1/people"), 401, "token_missing")


async def test_a_column_that_is_withheld_from_a_role_reads_null_and_is_no_read(api: Api, token: Callable[..., str]) -> None:
    noted: list[PersonalRead] = []

    async def note(read: PersonalRead) -> int:
        noted.append(read)
        return len(noted)

    columns = tuple(replace(each, withheld=frozenset({Role.AUDITOR})) if each.name == "name" else each for each in PEOPLE.columns)
    people = replace(PEOPLE, columns=columns, roles=frozenset({Role.BUREAU_ADMIN, Role.AUDITOR}), key="volunteer_id", personal=("name",))
    app = build_app(replace(api, queries=(people,), views=replace(api.views, note=note)))
    async with Client(transport=httpx.ASGITransport(app), base_url="http://leifeng") as client:
        asked = [await client.get("/api/v1/people", headers={"Authorization": token(role)}) for role in ("auditor", "bureau_admin")]
    assert [[row["name"] for row in answer.json()["items"]] for answer in asked] == [[None], ["赵大山"]]
    assert [(read.actor.role, read.fields) for read in noted] == [(Role.BUREAU_ADMIN, ["name"])]


async def test_with_a_token_of_any_role_one_reads_no_less_than_without(
    client: Client, token: Callable[..., str], withdrawn: Withdrawn
) -> None:
    client.headers.pop("Authorization")
    bare = await client.get("/api/v1/balances")
    for role in ("volunteer", "kiosk", "activity_leader", "ops", "auditor"):
        answer = await client.get("/api/v1/balances", headers={"Authorization": token(role)})
        assert (answer.status_code, answer.content) == (200, bare.content), role
    withdrawn.persons.add(PERSON)
    answer = await client.get("/api/v1/balances", headers={"Authorization": token("auditor")})
    assert (answer.status_code, answer.content) == (200, bare.content)
    for wrong in (token(iss="somebody else"), token(exp=1, iat=0), "Bearer x"):
        assert (await client.get("/api/v1/balances", headers={"Authorization": wrong})).status_code == 401


async def test_what_the_reader_role_may_not_see_the_query_does_not_either(api: Api) -> None:
    spying = replace(
        BALANCES, name="secrets", path="/secrets", sql="SELECT name AS unit_code FROM api.secrets WHERE $1 || $2 || $3 || $4 IS NULL"
    )
    app = build_app(replace(api, queries=(spying,)))
    async with Client(transport=httpx.ASGITransport(app), base_url="http://leifeng") as client:
        check_problem(await client.get("/api/v1/secrets"), 500, "internal_error")


async def test_the_reader_is_told_to_the_database_for_this_transaction_only(
    api: Api, token: Callable[..., str], pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    public = replace(
        BALANCES,
        name="whoami",
        path="/whoami",
        sql="""
            SELECT concat_ws('/', current_user, current_setting('leifeng.reach'), current_setting('leifeng.unit')) AS unit_code,
                   NULL AS volunteer_id, NULL AS minutes, NULL AS seen_at, NULL AS account_id
            WHERE ($1::text IS NULL OR true) AND $2::text IS NULL AND $3::uuid IS NULL LIMIT $4
        """,
    )
    own = replace(public, name="own", path="/own", public=False, roles=EVERYBODY)
    app = build_app(replace(api, queries=(public, own)))
    async with Client(transport=httpx.ASGITransport(app), base_url="http://leifeng") as client:

        async def said(path: str, **headers: str) -> str:
            return str((await client.get(f"/api/v1{path}", headers=headers)).json()["items"][0]["unit_code"])

        as_role = {role: {"Authorization": token(role)} for role in ("volunteer", "unit_admin", "auditor", "ops")}
        assert {await said("/whoami"), await said("/whoami", **as_role["unit_admin"])} == {"tests_http_query/bureau/"}
        assert await said("/own", **as_role["unit_admin"]) == "tests_http_query/unit/water-saving-office"
        assert await said("/own", **as_role["auditor"]) == "tests_http_query/bureau/water-saving-office"
        assert await said("/own", **as_role["volunteer"]) == "tests_http_query/own/"
        assert await said("/own", **as_role["ops"]) == "tests_http_query/nothing/water-saving-office"
    assert await pool.fetchval("SELECT current_user") == "scratch_owner"


async def test_a_token_is_waited_for_and_read_in_the_same_snapshot(client: Client, follow: Follow, told: Told) -> None:
    client.headers.pop("Authorization")
    after = {"After": f"hours:{LOG_ID}:13"}
    check_problem(await client.get("/api/v1/balances", headers=after), 409, "not_caught_up")
    follow.arrived["hours"] = 13
    answer = await client.get("/api/v1/balances", headers=after)
    check_problem(answer, 409, "not_caught_up")  # Waited for, but the snapshot still stands at 12.
    assert answer.headers["retry-after"] == "1"
    told.freshness[0] = replace(told.freshness[0], applied=13)
    assert (await client.get("/api/v1/balances", headers=after)).status_code == 200


async def test_rows_of_a_blocked_key_are_marked_parked(client: Client, told: Told) -> None:
    client.headers.pop("Authorization")
    blocked = "0197f3a4-5c00-7000-8000-000000000003"
    told.parked = frozenset({blocked, "0197f3a4-5c00-7000-8000-00000000ffff"})
    assert (await client.get("/api/v1/balances?limit=1")).json()["parked"] == [blocked]
    assert (await client.get("/api/v1/balances?unit=unit-1")).json()["parked"] == []


async def test_a_swap_of_the_views_between_two_reads_is_not_noticed(client: Client, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    client.headers.pop("Authorization")
    asked = [client.get("/api/v1/balances") for _ in range(8)]
    before = [answer.json()["items"] for answer in await asyncio.gather(*asked)]
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("ALTER TABLE api.balances RENAME TO balances_old")
        await connection.execute(
            "CREATE TABLE api.balances AS SELECT minutes::int AS minutes, account_id, seen_at, volunteer_id, unit_code"
            " FROM api.balances_old"
        )
        await connection.execute("GRANT SELECT ON api.balances TO tests_http_query")
        await connection.execute("DROP TABLE api.balances_old")
    answers = await asyncio.gather(*[client.get("/api/v1/balances") for _ in range(8)])
    assert [answer.status_code for answer in answers] == [200] * 8
    assert [answer.json()["items"] for answer in answers] == before


async def test_without_a_database_a_query_is_a_503(api: Api, database: Any) -> None:
    pool = await asyncpg.create_pool(database(), min_size=1, max_size=1)
    await pool.close()
    app = build_app(replace(api, views=replace(api.views, pool=pool)))
    async with Client(transport=httpx.ASGITransport(app), base_url="http://leifeng") as client:
        answer = await client.get("/api/v1/balances")
    check_problem(answer, 503, "store_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_sealed_field_stays_sealed_for_an_auditor(client: Client, token: Callable[..., str], store: TinyStore) -> None:
    await client.post(SEATS, json=seat(), headers=key())
    store.records[0] = replace(store.records[0], payload=b'{"name": "sealed:a1:xyz", "minutes": 90}')
    answer = await client.get("/api/v1/events", headers={"Authorization": token("auditor")})
    assert answer.json()["items"][0]["payload"] == {"name": "[sealed]", "minutes": 90}


async def test_a_figure_opens_into_its_events_for_an_auditor(client: Client, token: Callable[..., str]) -> None:
    await client.post(SEATS, json=seat(), headers=key())
    stream = f"/api/v1/streams/activity-{ACTIVITY}/events"
    check_problem(await client.get(stream), 403, "role_not_allowed")
    client.headers["Authorization"] = token("auditor")
    body = (await client.get(stream)).json()
    assert [(each["type"], each["version"], each["payload"]["position"]) for each in body["items"]] == [
        ("registration.enrollment_accepted", 1, "guide")
    ]
    assert body["next_after"] is None
    assert (await client.get(f"{stream}?after=1")).json()["items"] == []
    assert (await client.get("/api/v1/events?limit=1")).json()["items"] == body["items"]
    for name in ("activity", "activity-1", "account-" + str(ACTIVITY), "activity-" + str(ACTIVITY).upper(), "nobody-" + str(ACTIVITY)):
        check_problem(await client.get(f"/api/v1/streams/{name}/events"), 400, "stream_invalid")
    check_problem(await client.get(f"{stream}?after=-1"), 400, "parameter_invalid")


async def test_of_a_long_stream_no_more_is_read_than_is_shown(client: Client, token: Callable[..., str], store: TinyStore) -> None:
    await client.post(SEATS, json=seat(), headers=key())
    store.records += [replace(store.records[0], position=n, version=n) for n in range(2, 1000)]
    client.headers["Authorization"] = token("auditor")
    for path in (f"/api/v1/streams/activity-{ACTIVITY}/events", f"/view/streams/activity-{ACTIVITY}/events"):
        store.rows_read = 0
        answer = await client.get(path, params={"limit": "5", "after": "7"})
        assert answer.status_code == 200
        assert store.rows_read == 6  # One more tells that there is a next page.
