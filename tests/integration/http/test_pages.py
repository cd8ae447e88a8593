"""The page, the documents and the probes, as a visitor and a validator meet them."""

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from shared.contracts import hours, recognition, registration
from shared.contracts.event import Event
from shared.contracts.registration import EVENTS
from shared.contracts.topics import CATEGORIES, SERVICES
from shared.envelope import Record, Stream
from shared.errors import StoreUnavailableError
from shared.http.api import Api
from shared.http.app import build_app
from shared.http.fields import OPEN_FIELDS
from tests.integration.http.conftest import ACTIVITY, TinyStore, Told
from tests.integration.http.seats import BALANCES, CODED, LOG_ID, NOW
from tests.integration.http.test_commands import SEATS, key

Client = httpx.AsyncClient
ROOT = Path(__file__).parents[3]
RAISED = {
    code
    for file in (ROOT / "shared" / "http").glob("*.py")
    if file.name != "disclosures.py"  # For services that hold records of persons, and by their words.
    for code in re.findall(r'ProblemError\(\s*"(\w+)"', file.read_text("utf-8"))
}
"""Every code that the sources raise."""


class Outline(HTMLParser):
    """The links, headings and addresses of a page; complains about an element that is never closed."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        assert "style" not in said
        assert tag not in {"script", "style", "iframe"}
        if tag == "a":
            self.links.append(said.get("href") or "")
        elif tag in {"link", "img"}:
            self.loaded.append(said.get("href") or said.get("src") or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"h1", "h2"} and data.strip():
            self.headings.append(data.strip())


@pytest.fixture
async def visitor(client: Client) -> Client:
    client.headers.pop("Authorization")
    return client


async def test_the_page_shows_lists_heads_lag_and_the_ways_out_in_chinese(visitor: Client) -> None:
    answer = await visitor.get("/")
    assert answer.status_code == 200
    page = Outline(answer.text)
    assert page.headings == ["报名登记", "数据新鲜度", "时长余额"]
    assert '<html lang="zh-CN">' in answer.text
    assert "落后 2 条" in answer.text
    assert "2 小时 15 分" in answer.text
    assert "2017-03-05 08:30" in answer.text
    for link in (
        "/view/balances",
        "/api/v1/balances",
        "/api/v1/openapi.json",
        "/asyncapi.json",
        "/problems",
        "/metrics",
        "http://127.0.0.1:8102",
    ):
        assert link in page.links
    assert all(each.startswith("/static/") for each in page.loaded)
    assert "赵大山" not in answer.text


async def test_every_link_of_the_page_that_stays_here_leads_somewhere(visitor: Client) -> None:
    await visitor.get("/")
    links = {link for path in ("/", "/view/balances") for link in Outline((await visitor.get(path)).text).links}
    for link in sorted(links):
        if link.startswith("/"):
            answer = await visitor.get(link)
            assert answer.status_code == 200, link
    assert len(links) > 10


async def test_english_is_one_switch_away_and_stays(visitor: Client) -> None:
    answer = await visitor.get("/?lang=en")
    assert "samesite=lax" in answer.headers["set-cookie"].lower()
    assert Outline(answer.text).headings == ["Registration", "Freshness", "Balances"]
    assert "2 behind" in (await visitor.get("/")).text
    assert Outline((await visitor.get("/?lang=zh")).text).headings[0] == "报名登记"


@pytest.mark.parametrize("path", ["/view/balances?{}=1", "/view/balances?limit={}", "/view/streams/{}/events", "/problems/{}"])
async def test_a_page_that_says_what_is_wrong_does_not_say_the_address_again(visitor: Client, path: str) -> None:
    for word in ("赵大山", "19900000001"):
        answer = await visitor.get(path.format(word))
        assert answer.status_code in {400, 404}
        assert not any(each in answer.text for each in (word, quote(word)))
        assert "?lang=en" in Outline(answer.text).links


async def test_a_list_is_filtered_and_walked_on_the_page(visitor: Client) -> None:
    first = await visitor.get("/view/balances?unit=unit-1&limit=20&cursor=")
    assert first.text.count("<tr>") == 21
    onward = next(link for link in Outline(first.text).links if link.startswith("?") and "cursor=" in link)
    second = await visitor.get(f"/view/balances{onward}")
    assert second.text.count("<tr>") == 5
    wrong = await visitor.get("/view/balances?cursor=abc")
    assert (wrong.status_code, wrong.headers["content-type"]) == (400, "text/html; charset=utf-8")
    assert "cursor_invalid" in wrong.text


@pytest.fixture
async def coded(api: Api) -> AsyncIterator[Client]:
    """A visitor of a service whose list holds codes."""
    app = build_app(replace(api, queries=(CODED,)))
    async with Client(transport=httpx.ASGITransport(app), base_url="http://leifeng") as made:
        yield made


async def test_codes_are_said_in_words_and_chosen_from_a_list(coded: Client) -> None:
    page = (await coded.get("/view/coded?state=odd&unit=nowhere")).text
    Outline(page)
    assert '<option value="odd" selected>单数</option>' in page
    assert '<option value="unit-1">单位</option>' in page
    assert '<option value="nowhere" selected>nowhere</option>' in page
    page = (await coded.get("/view/coded?state=odd")).text
    assert ">单数</td>" in page
    assert ">双数</td>" not in page
    assert ">2017</td>" in page
    assert "/api/v1/coded?state=odd" in Outline(page).links
    assert "/view/coded?state=odd&lang=en" in Outline(page).links


async def test_a_page_shows_texts_of_its_language_and_leaves_ids_to_programs(coded: Client) -> None:
    zh, en = [(await coded.get(f"/view/coded?lang={language}")).text for language in ("zh", "en")]
    assert "甲" in zh
    assert "Able" not in zh
    assert "Able" in en
    assert "甲" not in en
    assert "志愿者</th>" not in zh
    assert (await coded.get("/api/v1/coded?limit=1")).json()["items"][0].keys() == {each.name for each in CODED.columns}


async def test_a_name_leads_to_the_rows_of_whom_it_names(coded: Client) -> None:
    whole = Outline((await coded.get("/view/coded")).text)
    link = next(link for link in whole.links if "volunteer=" in link)
    found = (await coded.get(link)).text
    assert found.count("<tr>") == 2
    assert f'value="{link.partition("=")[2]}"' in found
    assert "/view/coded" in Outline(found).links
    assert 'name="volunteer"' not in (await coded.get("/view/coded")).text


async def test_a_form_asks_for_civil_time(coded: Client) -> None:
    page = (await coded.get("/view/coded?from=2017-03-08T06:30&limit=200")).text
    assert 'type="datetime-local" name="from" value="2017-03-08T06:30"' in page
    assert "2017-03-08 06:30" in page
    assert "2017-03-08 04:30" not in page


@pytest.fixture
def said(store: TinyStore) -> Callable[[str, Event, dict[str, Any]], str]:
    """Puts one event into the store, with fields beyond its contract; the path of its stream's page."""

    def say(category: str, event: Event, more: dict[str, Any]) -> str:
        position = len(store.records) + 1
        store.records.append(
            Record(
                service=CATEGORIES[category].service,
                log_id=LOG_ID,
                position=position,
                stream=Stream(category, ACTIVITY),
                version=position,
                event_id=uuid4(),
                type=event.TYPE,
                schema_version=event.VERSION,
                time=NOW,
                command_id=uuid4(),
                correlation_id=uuid4(),
                causation_id=None,
                actor=f"volunteer:{WHO}",
                partition_key=str(WHO),
                traceparent=None,
                payload=json.dumps({**event.model_dump(mode="json"), **more}).encode(),
            )
        )
        return f"/view/streams/{category}-{ACTIVITY}/events"

    return say


Say = Callable[[str, Event, dict[str, Any]], str]

WHO = UUID("0197f3a4-5c00-7000-8000-00000000abcd")
RECORDER = UUID("0197f3a4-5c00-7000-8000-00000000dcba")
SECRETS = {
    "name": "sealed:a1:xyz",
    "note": "找赵大山",
    "remark": "ill",
    "is_minor": True,
    "consent": "be_named",
    "reason_code": "duplicate",
}
"""What no event says in the clear today, and what another one does; a visitor sees none of it."""
UNSEEN = ("赵大山", "xyz", "sealed", "已密封", "ill<", "未成年", "是<", "公开姓名", "be_named", "duplicate", "重复", "abcd", "dcba", "…<")


async def test_of_the_seats_of_an_activity_anybody_sees_how_many_and_nobody_on_them(visitor: Client, said: Say) -> None:
    position = registration.Position(code="guide", name="向导", capacity=3, duties="找赵大山")
    said(
        "activity",
        registration.ActivityPublished(
            activity_id=ACTIVITY, unit_code="water-saving-office", title="赵大山", carrier="tree-planting", target_group=None,
            occasion=None, place="赵大山", starts_at=NOW, ends_at=NOW, positions=(position,), wait_list_max=7, risk_note="ill",
            has_risk=False, insurance="xyz",
        ),
        SECRETS,
    )  # fmt: skip
    taken = {"activity_id": ACTIVITY, "volunteer_id": WHO, "position": "guide"}
    said("activity", registration.EnrollmentAccepted.model_validate(taken), SECRETS)
    said("activity", registration.EnrollmentWithdrawn.model_validate({**taken, "reason": "left_programme"}), {})
    path = said("activity", registration.ClashOverridden(activity_id=ACTIVITY, volunteer_id=WHO, clashes_with=RECORDER, reason="ill"), {})
    page = (await visitor.get(path)).text
    Outline(page)
    for shown in (
        "已发布",
        "已录用",
        "registration.enrollment_withdrawn",
        "2017-03-05 08:30",
        "guide 3",
        ">7<",
        "tree-planting",
        "…0000000f",
    ):
        assert shown in page
    for secret in (*UNSEEN, "退出", "left_programme"):
        assert secret not in page.replace("…0000000f<", "").replace("…</dd>", "…<"), secret


async def test_of_hours_anybody_sees_days_and_minutes_but_not_who_came_when_or_who_recorded_it(api: Api, said: Say) -> None:
    counted = {
        "volunteer_id": WHO,
        "entry_id": ACTIVITY,
        "activity_id": ACTIVITY,
        "unit_code": "water-saving-office",
        "hour_class": "timed",
    }
    minutes = {"credited_minutes": 90, "over_cap_minutes": 5, "served_on": NOW.date()}
    postings = (hours.Posting(account="timed", minutes=90), hours.Posting(account="over_cap", minutes=5))
    said(
        "account",
        hours.ServiceTimeConfirmed.model_validate(
            {**counted, **minutes, "starts_at": NOW, "ends_at": NOW, "postings": postings, "policy_version": "2017-1",
             "recorder_id": RECORDER, "approver_id": RECORDER}
        ),
        SECRETS,
    )  # fmt: skip
    path = said(
        "account",
        hours.ServiceTimeReversed.model_validate(
            {**counted, **minutes, "postings": (), "reason_code": "duplicate", "requester_id": RECORDER, "approver_id": RECORDER}
        ),
        {"postings": [{"account": "timed", "minutes": -90, "note": "ill"}]},
    )
    async with Client(transport=httpx.ASGITransport(build_app(replace(api, service="hours", events=hours.EVENTS)))) as visitor:
        page = (await visitor.get(f"http://leifeng{path}")).text
    Outline(page)
    for shown in (
        "已认定",
        "系统计时 1 小时 30 分; 超出每日上限 0 小时 05 分",
        "系统计时 -1 小时 30 分",
        "2017-03-05<",
        "2017-1<",
        "…0000000f",
    ):
        assert shown in page
    for secret in (*UNSEEN, "08:30", "T00:30"):
        assert secret not in page, secret


async def test_of_stars_anybody_sees_that_one_was_revoked_and_nothing_of_what_was_only_proposed(api: Api, said: Say) -> None:
    about = {"volunteer_id": WHO, "unit_code": "water-saving-office", "stars": 1}
    figures = {"confirmed_minutes": 6000, "threshold_minutes": 6000, "policy_version": "2017-1", "hours_position": 9}
    why = {"proposal_id": RECORDER, "reason_code": "discipline_or_crime"}
    proposed = recognition.StarRevocationProposed.model_validate({**about, **why, "proposed_by": RECORDER})
    said("star", recognition.StarGranted.model_validate({**about, **figures}), SECRETS)
    said("star", proposed, {})
    rejected = {"volunteer_id": WHO, "stars": 1, "proposal_id": RECORDER, "reason_code": "rejected", "declined_by": RECORDER}
    said("star", recognition.StarRevocationDeclined.model_validate(rejected), {})
    said("star", proposed, {})
    path = said("star", recognition.StarRevoked.model_validate({**about, **why, "approved_by": RECORDER}), {})
    app = build_app(replace(api, service="recognition", events=recognition.EVENTS))
    async with Client(transport=httpx.ASGITransport(app), base_url="http://leifeng") as visitor:
        page = (await visitor.get(path)).text
        first, second, third = [(await visitor.get(f"{path}?limit=1&after={after}")).text for after in range(3)]
    assert re.findall(r'class="version">(\d+)</span> (\S+)<', page) == [("1", "已评星"), ("2", "已撤销星级")]
    assert ("已评星" in first, 'rel="next"' in first, "已撤销星级" in second, 'rel="next"' in second) == (True, True, True, False)
    assert "没有事件" in third
    for secret in (*UNSEEN, "提出撤销", "未批准", "revocation", "discipline", "违纪", "原因"):
        assert secret not in page + first + second + third, secret


@pytest.mark.parametrize("category", sorted(CATEGORIES.keys() - OPEN_FIELDS.keys()))
async def test_what_is_about_one_person_stands_on_no_page(api: Api, said: Say, category: str) -> None:
    path = said(category, registration.VolunteerDeregistered(volunteer_id=WHO), SECRETS)
    for service in SERVICES:
        async with Client(transport=httpx.ASGITransport(build_app(replace(api, service=service)))) as visitor:
            answer = await visitor.get(f"http://leifeng{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert "not_found" in answer.text
        for secret in UNSEEN:
            assert secret not in answer.text, secret


async def test_views_that_stand_still_and_what_was_given_up_are_told_to_everybody(api: Api, told: Told) -> None:
    told.freshness = [replace(told.freshness[0], stopped="InvariantError"), replace(told.freshness[1], discarded=2)]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(api)), base_url="http://test") as client:
        page = (await client.get("/?lang=en")).text
        answer = (await client.get(f"/api/v1{BALANCES.path}")).json()["freshness"]
    assert "stopped, waits for an operator" in page
    assert "up to date, 2 discarded" in page
    assert (answer["hours"]["stopped"], answer["hours"]["discarded"]) == ("InvariantError", 0)
    assert (answer["registration"]["stopped"], answer["registration"]["discarded"]) == (None, 2)


async def test_a_row_about_one_person_leads_nowhere_but_still_says_that_it_is_parked(api: Api, told: Told) -> None:
    told.parked = frozenset({"0197f3a4-5c00-7000-8000-000000000003"})
    closed = replace(BALANCES, details="streams/volunteer-{volunteer_id}/events")
    app = build_app(replace(api, queries=(closed,)))
    async with Client(transport=httpx.ASGITransport(app), base_url="http://leifeng") as visitor:
        for path in ("/", "/view/balances"):
            page = (await visitor.get(path)).text
            assert [link for link in Outline(page).links if "/streams/" in link] == []
            assert page.count('<span class="flag">搁置</span>') == 1
        told.parked = frozenset()
        assert "明细" not in (await visitor.get("/")).text


async def test_what_is_no_stream_or_no_version_is_told_on_a_page(visitor: Client) -> None:
    for path, code in (
        ("/view/streams/nobody/events", "stream_invalid"),
        (f"/view/streams/account-{ACTIVITY}/events", "stream_invalid"),  # Another service's.
        (f"/view/streams/activity-{ACTIVITY}/events?after=one", "parameter_invalid"),
        (f"/view/streams/activity-{ACTIVITY}/events?after={'9' * 19}", "parameter_invalid"),
        (f"/view/streams/activity-{ACTIVITY}/events?limit=0", "parameter_invalid"),
    ):
        answer = await visitor.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "text/html; charset=utf-8"), path
        assert code in answer.text


async def test_markup_in_data_is_text(visitor: Client, told: Told) -> None:
    told.freshness[0] = replace(told.freshness[0], source="<script>alert(1)</script>")
    told.parked = frozenset({"0197f3a4-5c00-7000-8000-000000000003"})
    answer = await visitor.get('/view/balances?unit="><img src=x>')
    Outline(answer.text)
    assert "<img" not in answer.text
    answer = await visitor.get("/")
    Outline(answer.text)
    assert "搁置" in answer.text


async def test_without_a_database_the_page_says_so(visitor: Client, store: TinyStore) -> None:
    store.trouble = StoreUnavailableError("down")
    answer = await visitor.get("/")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "数据库暂时不可用" in answer.text
    assert (await visitor.get("/readyz")).status_code == 503
    assert (await visitor.get("/livez")).status_code == 200


async def test_a_process_that_is_about_to_end_is_not_ready(api: Api) -> None:
    app = build_app(api)
    async with Client(transport=httpx.ASGITransport(app), base_url="http://leifeng") as client:
        assert (await client.get("/readyz")).status_code == 200
        app.state.draining = True
        assert (await client.get("/readyz")).status_code == 503


async def test_the_openapi_document_is_valid_and_says_what_the_routes_do(visitor: Client, api: Api) -> None:
    document = (await visitor.get("/api/v1/openapi.json")).json()
    OpenAPIV31SpecValidator(document).validate()
    assert set(document["paths"]) == {
        "/api/v1/activities/{activity_id}/seats",
        "/api/v1/balances",
        "/api/v1/people",
        "/api/v1/streams/{stream}/events",
        "/api/v1/events",
    }
    command = document["paths"]["/api/v1/activities/{activity_id}/seats"]["post"]
    assert "activity_full" in command["responses"]["409"]["content"]["application/problem+json"]["examples"]
    assert document["paths"]["/api/v1/balances"]["get"]["security"] == [{}, {"bearer": []}]
    assert document["components"]["schemas"]["TakeSeat"]["additionalProperties"] is False


async def test_the_examples_of_the_documents_are_answered_as_documented(client: Client) -> None:
    document = (await client.get("/api/v1/openapi.json")).json()
    command = document["paths"]["/api/v1/activities/{activity_id}/seats"]["post"]
    example = command["requestBody"]["content"]["application/json"]["example"]
    answer = await client.post(SEATS, json=example, headers=key())
    assert answer.status_code == 200, answer.text
    schema = document["components"]["schemas"]["CommandAnswer"]
    assert set(answer.json()) == set(schema["properties"])


async def test_every_code_that_is_answered_stands_in_the_documents(visitor: Client) -> None:
    listed = {each["code"]: each for each in (await visitor.get("/problems.json")).json()["problems"]}
    html = (await visitor.get("/problems")).text
    for code, each in listed.items():
        assert f'id="{code}"' in html
        assert each["type"] == f"/problems/{code}"
        assert (await visitor.get(each["type"])).status_code == 200
    assert listed["activity_full"]["kept"] is True
    assert (await visitor.get("/problems/nothing")).status_code == 404
    assert RAISED
    assert listed.keys() >= RAISED


async def test_every_event_has_a_schema_of_its_own(visitor: Client) -> None:
    listed = (await visitor.get("/schemas")).json()["schemas"]
    assert len(listed) == len(EVENTS)
    for each in listed:
        schema = (await visitor.get(each["url"])).json()
        assert schema["$id"] == f"urn:leifeng:schema:{each['type']}:{each['version']}"
    assert (await visitor.get("/schemas/registration.activity_published/1")).status_code == 404


@pytest.mark.parametrize("service", ["registration", "hours", "recognition"])
async def test_the_asyncapi_document_names_the_topic_as_it_is_called_here(api: Api, service: str) -> None:
    app = build_app(replace(api, service=service, topic_prefix="t1."))
    async with Client(transport=httpx.ASGITransport(app), base_url="http://leifeng") as client:
        document: dict[str, Any] = (await client.get("/asyncapi.json")).json()
    assert document["channels"][f"{service}.events"]["address"] == f"t1.{service}.events"
