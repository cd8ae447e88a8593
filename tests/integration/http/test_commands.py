"""Commands through the real application: what is answered, what is refused, and that nothing refused leaves an event."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from shared import logs
from shared.errors import EventTooLargeError, LogClosedError, StoreUnavailableError, StreamConflictError
from shared.http.api import Api
from shared.http.app import build_app
from shared.http.deadline import Deadline
from shared.http.door import Door, Roles
from shared.http.forms import Forms
from shared.http.rates import Rates
from tests.integration.http.conftest import ACTIVITY, PERSON, Follow, TinyStore, Withdrawn, no_device
from tests.integration.http.seats import LOG_ID

SEATS = f"/api/v1/activities/{ACTIVITY}/seats"
AWAY = [
    ConnectionRefusedError(),
    TimeoutError(),
    asyncpg.ConnectionDoesNotExistError(),
    asyncpg.CannotConnectNowError(),
    asyncpg.InterfaceError("pool is closing"),
]
"""Ways for a database to be away."""
SOMEBODY = "0197f3a4-5c00-7000-8000-0000000000b1"


def seat(volunteer: object = SOMEBODY, **more: Any) -> dict[str, Any]:
    """A good body."""
    return {"volunteer_id": str(volunteer), "position": "guide", **more}


def key(name: str = "k-1") -> dict[str, str]:
    return {"Idempotency-Key": name}


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """A problem as RFC 9457 has it, with a code that the documentation knows."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["type"], body["status"]) == (f"/problems/{code}", status)
    assert body["title"]
    return body


async def test_an_accepted_command_tells_its_events_position_and_version(client: httpx.AsyncClient, store: TinyStore) -> None:
    answer = await client.post(SEATS, json=seat(), headers=key())
    assert answer.status_code == 200
    body = answer.json()
    (event,) = body.pop("events")
    assert event == {"id": str(store.records[0].event_id), "type": "registration.enrollment_accepted", "version": 1, "position": 1}
    assert body == {
        "command_id": str(store.records[0].command_id),
        "outcome": "accepted",
        "stream": f"activity-{ACTIVITY}",
        "version": 1,
        "position": f"registration:{LOG_ID}:1",
    }
    assert answer.headers["position"] == f"registration:{LOG_ID}:1"
    assert answer.headers["etag"] == '"1"'


async def test_a_repeat_gets_the_first_answer_byte_for_byte_and_says_that_it_is_one(client: httpx.AsyncClient, store: TinyStore) -> None:
    first = await client.post(SEATS, json=seat(), headers=key())
    again = await client.post(SEATS, content=json.dumps(seat(), indent=3), headers={**key(), "Content-Type": "application/json"})
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(store.records) == 1


async def test_a_kept_refusal_is_a_problem_from_the_table_and_the_same_on_repeats(client: httpx.AsyncClient, store: TinyStore) -> None:
    for number in range(2):
        assert (await client.post(SEATS, json=seat(uuid4()), headers=key(str(number)))).status_code == 200
    first = await client.post(SEATS, json=seat(), headers=key("late"))
    body = check_problem(first, 409, "activity_full")
    assert (body["outcome"], body["values"], body["title_zh"]) == ("refused", {"seats": 2}, "名额已满")
    again = await client.post(SEATS, json=seat(), headers=key("late"))
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert len(store.records) == 2


async def test_a_command_with_nothing_to_do_is_accepted_without_events(client: httpx.AsyncClient, store: TinyStore) -> None:
    await client.post(SEATS, json=seat(), headers=key("a"))
    answer = await client.post(SEATS, json=seat(), headers=key("b"))
    assert (answer.status_code, answer.json()["events"], answer.json()["position"]) == (200, [], f"registration:{LOG_ID}:1")
    assert len(store.records) == 1


async def test_one_persons_key_is_not_anothers(client: httpx.AsyncClient, token: Callable[..., str], store: TinyStore) -> None:
    one = await client.post(SEATS, json=seat(uuid4()), headers=key())
    other = await client.post(SEATS, json=seat(uuid4()), headers={**key(), "Authorization": token(person=uuid4())})
    assert one.json()["command_id"] != other.json()["command_id"]
    assert len(store.records) == 2


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "json_malformed"),
        (b"", 400, "json_malformed"),
        (b'{"volunteer_id": "\xff"}', 400, "body_not_utf8"),
        (b'{"position": "a", "position": "b"}', 400, "json_duplicate_key"),
        (b'{"count": NaN}', 400, "json_number_not_finite"),
        (b'{"count": 1e999}', 400, "json_number_not_finite"),
        (b'{"count": 999999999999999999999999999999}', 400, "json_integer_too_large"),
        (b"[" * 2000 + b"]" * 2000, 400, "json_too_deep"),
        (b'{"remarks": [' + b'"a",' * 1000 + b'"a"]}', 400, "json_array_too_long"),
        (b'{"position": "a\\u0000"}', 400, "text_has_nul"),
        (b'{"position": "\\ud83d"}', 400, "text_has_lone_surrogate"),
        (json.dumps({**seat(), "more": 1}).encode(), 422, "field_unknown"),
        (json.dumps({"position": "guide"}).encode(), 422, "field_missing"),
        (json.dumps({**seat(), "count": "1"}).encode(), 422, "field_wrong_type"),
        (json.dumps({**seat(), "count": 1.0}).encode(), 422, "field_wrong_type"),
        (json.dumps({**seat(), "volunteer_id": 7}).encode(), 422, "field_wrong_type"),
        (b'{"position": "' + b"a" * 300_000 + b'"}', 413, "body_too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_bad_body_meets_its_code_and_leaves_no_event(
    client: httpx.AsyncClient, store: TinyStore, content: bytes, status: int, code: str
) -> None:
    answer = await client.post(SEATS, content=content, headers={**key(), "Content-Type": "application/json"})
    check_problem(answer, status, code)
    assert store.records == []
    assert store.answers == {}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Idempotency-Key": None}, 400, "idempotency_key_missing"),
        ({"Idempotency-Key": ""}, 400, "idempotency_key_invalid"),
        ({"Idempotency-Key": "a" * 201}, 400, "idempotency_key_invalid"),
        ({"Idempotency-Key": "a b"}, 400, "idempotency_key_invalid"),
        ({"Idempotency-Key": "a\tb"}, 400, "idempotency_key_invalid"),
        ({"Idempotency-Key": "钥匙".encode()}, 400, "idempotency_key_invalid"),
        ({"Content-Type": "text/plain"}, 415, "content_type_unsupported"),
        ({"Content-Encoding": "gzip"}, 415, "content_type_unsupported"),
        ({"If-Match": "1"}, 400, "if_match_invalid"),
        ({"If-Match": '"1", "2"'}, 400, "if_match_invalid"),
        ({"If-Match": 'W/"1"'}, 400, "if_match_invalid"),
        ({"If-Match": '"7"'}, 412, "version_stale"),
        ({"X-Correlation-Id": "mine"}, 400, "correlation_id_invalid"),
        ({"After": "registration"}, 400, "after_invalid"),
        ({"After": f"payroll:{LOG_ID}:1"}, 400, "after_invalid"),
        ({"After": f"registration:{PERSON}:1"}, 409, "after_foreign_log"),
        ({"After": f"hours:{LOG_ID}:9"}, 409, "not_caught_up"),
        ({"Authorization": None}, 401, "token_missing"),
        ({"Authorization": "Bearer " + "a" * 8200}, 401, "token_too_large"),
        ({"Authorization": "Bearer e30.e30.e30"}, 401, "token_invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_bad_header_meets_its_code_and_leaves_no_event(
    client: httpx.AsyncClient, store: TinyStore, headers: dict[str, Any], status: int, code: str
) -> None:
    said = {**key(), "Content-Type": "application/json", **headers}
    if headers.get("Authorization", "") is None:
        del client.headers["Authorization"]
    answer = await client.post(
        SEATS, content=json.dumps(seat()), headers={name: value for name, value in said.items() if value is not None}
    )
    check_problem(answer, status, code)
    assert (status == 401) == ("www-authenticate" in answer.headers)
    assert store.records == []


async def test_a_key_given_twice_is_no_key(client: httpx.AsyncClient) -> None:
    pairs = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Authorization", client.headers["Authorization"])]
    check_problem(await client.post(SEATS, json=seat(), headers=pairs), 400, "idempotency_key_invalid")


async def test_a_key_used_with_another_body_or_path_is_refused(client: httpx.AsyncClient, store: TinyStore) -> None:
    await client.post(SEATS, json=seat(), headers=key())
    check_problem(await client.post(SEATS, json=seat(remarks=["x"]), headers=key()), 422, "idempotency_key_reused")
    elsewhere = SEATS.replace(str(ACTIVITY), str(uuid4()))
    check_problem(await client.post(elsewhere, json=seat(), headers=key()), 422, "idempotency_key_reused")
    assert len(store.records) == 1


async def test_the_expected_version_is_honoured(client: httpx.AsyncClient) -> None:
    first = await client.post(SEATS, json=seat(uuid4()), headers={**key("a"), "If-Match": '"0"'})
    second = await client.post(SEATS, json=seat(uuid4()), headers={**key("b"), "If-Match": first.headers["etag"]})
    assert (second.status_code, second.headers["etag"]) == (200, '"2"')


async def test_a_role_that_may_not_ask_and_one_that_was_withdrawn_are_refused(
    client: httpx.AsyncClient, token: Callable[..., str], withdrawn: Withdrawn, store: TinyStore
) -> None:
    answer = await client.post(SEATS, json=seat(), headers={**key(), "Authorization": token("kiosk")})
    assert check_problem(answer, 403, "role_not_allowed")["roles"] == ["unit_admin", "volunteer"]
    withdrawn.persons.add(PERSON)
    admin = {**key(), "Authorization": token("unit_admin")}
    check_problem(await client.post(SEATS, json=seat(), headers=admin), 403, "role_withdrawn")
    never = {**key(), "Authorization": token("unit_admin", unit="another-office")}
    check_problem(await client.post(SEATS, json=seat(), headers=never), 403, "role_not_held")
    assert store.records == []


@pytest.mark.parametrize("activity", ["1", "{0197f3a4-5c00-7000-8000-00000000000f}", "０197f3a4-5c00-7000-8000-00000000000f"])
async def test_an_id_in_the_path_is_a_plain_uuid(client: httpx.AsyncClient, activity: str) -> None:
    check_problem(await client.post(f"/api/v1/activities/{activity}/seats", json=seat(), headers=key()), 400, "id_invalid")


async def test_a_command_takes_no_parameters(client: httpx.AsyncClient) -> None:
    check_problem(await client.post(f"{SEATS}?dry=1", json=seat(), headers=key()), 400, "parameter_unknown")


async def test_a_token_of_an_earlier_answer_is_waited_for(client: httpx.AsyncClient, follow: Follow) -> None:
    after = {"After": f"hours:{LOG_ID}:9"}
    answer = await client.post(SEATS, json=seat(), headers={**key(), **after})
    assert check_problem(answer, 409, "not_caught_up")["waited_for"] == after["After"]
    assert answer.headers["retry-after"] == "1"
    follow.arrived["hours"] = 9
    assert (await client.post(SEATS, json=seat(), headers={**key(), **after})).status_code == 200


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [
        (StoreUnavailableError("down"), 503, "store_unavailable"),
        (LogClosedError("recovering"), 503, "log_closed"),
        (StreamConflictError("activity-1"), 409, "stream_conflict"),
    ],
)
async def test_trouble_that_passes_says_when_to_try_again(
    client: httpx.AsyncClient, store: TinyStore, trouble: Exception, status: int, code: str
) -> None:
    store.trouble = trouble
    answer = await client.post(SEATS, json=seat(), headers=key())
    check_problem(answer, status, code)
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_fact_over_the_cap_is_the_callers_problem(client: httpx.AsyncClient, store: TinyStore) -> None:
    store.trouble = EventTooLargeError(70_000, 65_536)
    assert check_problem(await client.post(SEATS, json=seat(), headers=key()), 422, "event_too_large")["cap_bytes"] == 65_536


async def test_what_was_not_foreseen_is_a_500_without_a_word_of_its_own(client: httpx.AsyncClient, store: TinyStore) -> None:
    store.trouble = RuntimeError("Key (email)=(dashan@example.org)")
    answer = await client.post(SEATS, json=seat(), headers=key())
    check_problem(answer, 500, "internal_error")
    assert "dashan" not in answer.text


async def test_a_database_that_says_nothing_is_a_503_and_the_command_still_runs_to_its_end(
    client: httpx.AsyncClient, store: TinyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Deadline.__init__, "__defaults__", (0.05,))
    store.hold = asyncio.Event()
    check_problem(await client.post(SEATS, json=seat(), headers=key()), 503, "store_unavailable")
    store.hold.set()
    repeated = await client.post(SEATS, json=seat(), headers=key())
    assert repeated.headers["idempotency-replayed"] == "true"
    assert len(store.records) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError(),
        asyncpg.CannotConnectNowError(),
        asyncpg.InterfaceError("pool is closing"),
    ],
)
async def test_any_way_for_the_database_to_be_away_is_a_503(client: httpx.AsyncClient, store: TinyStore, trouble: Exception) -> None:
    store.trouble = trouble
    check_problem(await client.post(SEATS, json=seat(), headers=key()), 503, "store_unavailable")


async def test_our_own_mistake_in_sql_is_not_called_an_absence(client: httpx.AsyncClient, store: TinyStore) -> None:
    store.trouble = asyncpg.UndefinedColumnError()
    check_problem(await client.post(SEATS, json=seat(), headers=key()), 500, "internal_error")


async def test_a_role_check_that_hangs_is_answered_within_five_seconds(
    api: Api, client: httpx.AsyncClient, token: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_person_id: UUID) -> Roles:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(Deadline.__init__, "__defaults__", (0.05,))
    app = build_app(replace(api, door=Door(api.door.authenticator, hang, no_device, api.now)))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://leifeng", headers={"Authorization": token("unit_admin")}
    ) as hanging:
        check_problem(await hanging.post(SEATS, json=seat(), headers=key()), 503, "store_unavailable")


@pytest.fixture
async def narrow(api: Api, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """The same application with room for two commands at a time."""
    app = build_app(replace(api, commands_in_flight_max=2))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leifeng", headers=client.headers) as made:
        yield made


async def test_more_commands_than_the_bound_are_told_to_come_back(narrow: httpx.AsyncClient, store: TinyStore) -> None:
    store.hold = asyncio.Event()
    waiting = [asyncio.create_task(narrow.post(SEATS, json=seat(uuid4()), headers=key(str(number)))) for number in range(2)]
    async with asyncio.timeout(5):
        await store.arrivals.get()
        await store.arrivals.get()
    refused = await narrow.post(SEATS, json=seat(), headers=key("third"))
    assert refused.headers["retry-after"] == "1"
    check_problem(refused, 429, "too_many_requests")
    store.hold.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
    assert (await narrow.post(SEATS, json=seat(), headers=key("third"))).status_code == 409


async def test_who_asks_too_often_is_told_when_to_come_back_and_nobody_else_is(
    api: Api, client: httpx.AsyncClient, token: Callable[..., str], store: TinyStore
) -> None:
    app = build_app(replace(api, rates=Rates(per_address=5, per_person=2)))

    def at(address: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://leifeng", headers=client.headers)

    async with at("192.0.2.1") as near, at("192.0.2.2") as far:
        answers = [await near.post(SEATS, json=seat(uuid4()), headers=key(str(number))) for number in range(3)]
        assert [each.status_code for each in answers] == [200, 200, 429]
        check_problem(answers[2], 429, "too_many_requests")
        assert int(answers[2].headers["retry-after"]) == 30
        another = {**key("x"), "Authorization": token(person=uuid4())}
        assert [(await near.get("/api/v1/balances", headers=another)).status_code for _ in range(3)] == [200, 200, 429]
        assert (await near.get("/nowhere")).status_code == 429, "the address has asked six times"
        assert (await near.get("/livez")).status_code == 200
        assert (await far.get("/api/v1/balances", headers={"Authorization": token(person=uuid4())})).status_code == 200
    assert len(store.records) == 2


async def test_correlation_and_trace_reach_the_event(client: httpx.AsyncClient, store: TinyStore) -> None:
    correlation = UUID("0197f3a4-5c00-7000-8000-0000000000cc")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {**key(), "X-Correlation-Id": str(correlation), "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = await client.post(SEATS, json=seat(), headers=headers)
    assert answer.headers["x-correlation-id"] == str(correlation)
    assert store.records[0].correlation_id == correlation
    assert (store.records[0].traceparent or "").split("-")[1] == trace


async def test_an_answer_and_a_denial_are_logged_with_the_correlation_id_and_no_content(
    client: httpx.AsyncClient, store: TinyStore, token: Callable[..., str], logged: Callable[[], list[dict[str, Any]]]
) -> None:
    headers = {**key(), "X-Correlation-Id": "0197f3a4-5c00-7000-8000-0000000000cc"}
    await client.post(SEATS, json=seat(remarks=["赵大山"]), headers=headers)
    await client.post(SEATS, json=seat(), headers={**headers, "Authorization": token("kiosk")})
    answered, denied = [line for line in logged() if line["event"] in {"command_answered", "denied"}]
    assert (answered["command"], answered["outcome"], answered["position"]) == ("take_seat", "accepted", 1)
    assert answered["stream"] == logs.pseudonym(str(store.records[0].stream))
    assert (denied["code"], denied["route"]) == ("role_not_allowed", "/api/v1/activities/{activity_id}/seats")
    assert {answered["correlation_id"], denied["correlation_id"]} == {headers["X-Correlation-Id"]}
    assert "赵" not in str(logged())


async def test_problems_are_told_in_the_callers_language(client: httpx.AsyncClient) -> None:
    for accepted, title in (
        (None, "缺少 Idempotency-Key"),
        ("en-GB,zh;q=0.5", "A command needs the header Idempotency-Key"),
        ("zh-CN,en", "缺少 Idempotency-Key"),
    ):
        answer = await client.post(SEATS, json=seat(), headers={"Accept-Language": accepted} if accepted else {})
        assert answer.json()["title"] == title


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("PUT", SEATS, 405, "method_not_allowed"),
        ("POST", "/api/v1/balances", 405, "method_not_allowed"),
        ("GET", "/api/v1/", 404, "not_found"),
        ("GET", SEATS + "/", 404, "not_found"),
    ],
)
async def test_wrong_addresses_and_methods_are_problems_too(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    check_problem(await client.request(method, path), status, code)


POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)


async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient) -> None:
    answers = [await client.get(path) for path in ("/", "/nowhere", "/api/v1/balances", "/livez", "/view/people")]
    answers += [await client.post(SEATS, json=seat(), headers=headers) for headers in ({}, key())]
    for headers in (each.headers for each in answers):
        assert headers["content-security-policy"] == POLICY
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert "strict-transport-security" not in headers, "without TLS it would lock browsers out"


async def test_with_tls_a_browser_is_told_to_come_back_with_tls_only(api: Api, client: httpx.AsyncClient) -> None:
    app = build_app(replace(api, forms=Forms(b"f" * 32, "https://leifeng.example")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leifeng", headers=client.headers) as made:
        for answer in (await made.get("/livez"), await made.post(SEATS, json=seat(), headers=key())):
            assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_requests_are_counted_by_route_template(client: httpx.AsyncClient, app: FastAPI, api: Api) -> None:
    await client.post(SEATS, json=seat(), headers=key())
    await client.get("/nowhere")
    said = api.metrics.render().decode()
    count = "leifeng_http_request_duration_seconds_count"
    template = "/api/v1/activities/{activity_id}/seats"
    assert f'{count}{{code_class="2xx",method="POST",route="{template}",service="registration"}} 1.0' in said
    assert f'{count}{{code_class="4xx",method="GET",route="none",service="registration"}} 1.0' in said
    assert str(ACTIVITY) not in said
    assert "leifeng_http_requests_in_flight" in said
