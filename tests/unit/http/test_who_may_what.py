"""Every route of every service, tried in every role: it opens for the roles that the table names, and for no other.

`who_may_what.txt` is that table for people: a change of rights shows there in review. Write it anew with
`.venv/bin/python -m tests.unit.http.test_who_may_what` and read what has changed.
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import httpx
import pytest

from services.hours import main as hours
from services.recognition import main as recognition
from services.registration import main as registration
from shared.http.api import Api
from shared.http.app import build_app
from shared.http.auth import Caller
from shared.http.door import Door, Roles
from shared.http.forms import Forms
from shared.http.personal import Disclosing
from shared.http.problems import ProblemError
from shared.http.signin import SignIn
from shared.metrics import Metrics
from shared.permissions import GRANTED, Action, Role
from shared.process import Service

SERVICES: Final[Sequence[Service[Any]]] = (registration.SERVICE, hours.SERVICE, recognition.SERVICE)
UNIT: Final = "water-saving-office"
SOMEBODY: Final = UUID("0197f3a4-5c00-7000-8000-000000000001")
FORMS: Final = Forms(b"f", "http://leifeng")
TABLE: Final = Path(__file__).with_name("who_may_what.txt")


class Badges:
    """Whoever says a role is somebody, and says so; who says nothing is turned away."""

    def caller(self, authorization: str | None) -> Caller:
        if authorization is None:
            raise ProblemError("token_missing")
        return Caller(SOMEBODY, Role(authorization), UNIT)


async def holds_all(_person_id: UUID) -> Roles:
    return {(role.value, UNIT): True for role in GRANTED}


def app_of(service: Service[Any]) -> Any:
    """The routes of a service as they run, over nothing at all: whoever is let in fails at what they bring."""
    away = cast("Any", None)
    return build_app(
        Api(
            service=service.name,
            title_zh=service.title_zh,
            title_en=service.title_en,
            version="0",
            use_cases=service.use_cases,
            refusals=service.refusals,
            queries=service.queries,
            events=service.events,
            submit=away,
            store=away,
            views=away,
            waits=away,
            door=Door(cast("Any", Badges()), holds_all, away, away),
            ready=away,
            now=away,
            fingerprint_key=b"",
            forms=FORMS,
            sign_in=SignIn(away, away, FORMS, None, away, {}) if service.signs_in else None,
            metrics=Metrics(service.name, "0"),
            imports=service.imports,
        ),
        Disclosing(data=service.personal, note=away, open_=away),
    )


def actions_of(service: Service[Any]) -> Sequence[Action]:
    found: Sequence[Action] = app_of(service).state.actions
    return found


def written() -> str:
    """The table as text: one line for each route of the API, the roles that may after it."""
    lines = []
    for service in SERVICES:
        for each in sorted(actions_of(service), key=lambda action: (action.path, action.method)):
            public = Role.PUBLIC in each.roles
            roles = "everybody" if public else " ".join(role for role in Role if role in each.roles)
            lines.append(f"{service.name:<13} {each.method:<5} {each.path:<78} {roles}")
    return "\n".join(lines) + "\n"


@pytest.fixture(params=SERVICES, ids=lambda service: service.name)
async def visited(request: pytest.FixtureRequest) -> AsyncIterator[tuple[httpx.AsyncClient, Sequence[Action]]]:
    app = app_of(request.param)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leifeng") as client:
        yield client, app.state.actions


def wrong(action: Action) -> str:
    """The route with a parameter that it does not know, so that whoever is let in is told that and nothing happens."""
    return action.path.replace("{stream}", f"activity-{SOMEBODY}").replace("{", "").replace("}", "") + "?surprise=1"


@pytest.mark.parametrize("role", [role for role in Role if role not in {Role.PUBLIC, Role.SYSTEM}])
async def test_a_route_opens_for_the_roles_that_the_table_names_and_for_no_other(
    visited: tuple[httpx.AsyncClient, Sequence[Action]], role: Role
) -> None:
    client, actions = visited
    for action in (each for each in actions if each.path.startswith("/api/v1") and not each.path.endswith(".json")):
        answer = await client.request(action.method, wrong(action), headers={"Authorization": role.value, "Idempotency-Key": "k"})
        code = answer.json()["code"]
        if role in action.roles:
            assert code == "parameter_unknown", (action, code)
        else:
            assert (answer.status_code, code) == (403, "role_not_allowed"), action


async def test_without_a_token_only_what_is_everybodys_opens(visited: tuple[httpx.AsyncClient, Sequence[Action]]) -> None:
    client, actions = visited
    for action in (each for each in actions if each.path.startswith("/api/v1") and not each.path.endswith(".json")):
        answer = await client.request(action.method, wrong(action), headers={"Idempotency-Key": "k"})
        expected = (400, "parameter_unknown") if Role.PUBLIC in action.roles else (401, "token_missing")
        assert (answer.status_code, answer.json()["code"]) == expected, action


async def test_a_denial_is_counted(visited: tuple[httpx.AsyncClient, Sequence[Action]]) -> None:
    client, _ = visited
    for header in ({}, {"Authorization": "kiosk"}):
        await client.get("/api/v1/events", headers=header)
    said = (await client.get("/metrics")).text
    assert 'leifeng_denials_total{code="token_missing"' in said
    assert 'leifeng_denials_total{code="role_not_allowed"' in said


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_what_changes_something_is_nobodys_in_particular_nowhere(service: Service[Any]) -> None:
    for action in actions_of(service):
        if action.method != "GET" and action.path.startswith("/api/"):
            assert Role.PUBLIC not in action.roles, action
            assert Role.OPS not in action.roles, action
            assert Role.AUDITOR not in action.roles, action


async def test_the_table_that_is_served_is_the_one_that_is_enforced(visited: tuple[httpx.AsyncClient, Sequence[Action]]) -> None:
    client, actions = visited
    said = (await client.get("/permissions.json")).json()
    assert [(each["method"], each["path"], set(each["roles"])) for each in said["actions"]] == [
        (each.method, each.path, set(each.roles)) for each in actions
    ]


def test_the_table_that_was_reviewed_is_the_one_that_is_enforced() -> None:
    assert TABLE.read_text(encoding="utf-8") == written()


if __name__ == "__main__":
    TABLE.write_text(written(), encoding="utf-8")
