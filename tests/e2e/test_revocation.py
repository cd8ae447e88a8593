"""Two persons of the bureau take a star: it is gone everywhere at once, and everybody who may know can tell why."""

from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.e2e.stack import command
from tests.e2e.stage import UNIT, Stage, Volunteer, accepted, on, rows
from tests.e2e.test_rows import logged_in

WANTED = {"stars": 1, "reason_code": "false_record"}


@dataclass(frozen=True)
class Taken:
    """Whose star was taken, and what was said on the way."""

    volunteer: Volunteer
    proposal_id: UUID
    refused: dict[str, tuple[int, str]]
    while_proposed: list[dict[str, Any]]
    page_while_proposed: str
    after: str


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a problem."""
    return answer.status_code, answer.json()["code"]


async def held(stage: Stage, who: Volunteer, after: str) -> list[dict[str, Any]]:
    """The stars that everybody sees the volunteer hold."""
    return await rows(stage.self_("recognition", who.id), "/stars", after, volunteer=str(who.id))


@pytest.fixture(scope="module")
async def taken(stage: Stage) -> Taken:
    """Served, granted, proposed by one and approved by another, with everybody else refused on the way."""
    day = await stage.day(not_before=date(2017, 3, 6))
    who = await stage.volunteer("钱小川")
    activity = await stage.activity(on(day, "09:00"), on(day, "12:00"))
    confirmed = await stage.confirm(await stage.served(who, activity, on(day, "09:00"), on(day, "12:00")))
    accepted(await command(stage.self_("recognition", who.id), f"/volunteers/{who.id}/stars", {}, After=confirmed["position"]))
    await stage.stack.appoint((who.id, "bureau_admin", "water-bureau"))
    holder = stage.client("recognition", who.id, "bureau_admin", "water-bureau")
    bureau, deputy = stage.bureau("recognition"), stage.deputy("recognition")
    revocations = f"/volunteers/{who.id}/revocations"

    refused = {
        "the unit proposes": code_of(await command(stage.leader("recognition"), revocations, WANTED)),
        "the holder proposes": code_of(await command(holder, revocations, WANTED)),
        "a reason of one's own": code_of(await command(bureau, revocations, {**WANTED, "reason_code": "找钱小川"})),
        "another star": code_of(await command(bureau, revocations, {**WANTED, "stars": 2})),
    }
    said = accepted(await command(bureau, revocations, WANTED))
    [row] = await rows(deputy, "/star-revocations", said["position"], volunteer=str(who.id), state="proposed")
    proposal = f"{revocations}/{row['proposal_id']}"
    refused |= {
        "the bureau proposes again": code_of(await command(deputy, revocations, WANTED)),
        "the proposer approves": code_of(await command(bureau, f"{proposal}/approve", {})),
        "the holder approves": code_of(await command(holder, f"{proposal}/approve", {})),
        "the holder rejects": code_of(await command(holder, f"{proposal}/decline", {})),
        "the unit approves": code_of(await command(stage.leader("recognition"), f"{proposal}/approve", {})),
    }
    still = await held(stage, who, said["position"])
    page = (await holder.get(f"/view/streams/star-{who.id}/events")).text
    after = accepted(await command(deputy, f"{proposal}/approve", {}))
    assert [each["type"] for each in after["events"]] == ["recognition.star_revoked"]
    refused["approved again"] = code_of(await command(deputy, f"{proposal}/approve", {}))
    return Taken(who, UUID(row["proposal_id"]), refused, still, page, after["position"])


def test_only_two_persons_of_the_bureau_who_are_neither_one_nor_the_holder_decide(taken: Taken) -> None:
    assert taken.refused == {
        "the unit proposes": (403, "role_not_allowed"),
        "the holder proposes": (403, "proposer_is_subject"),
        "a reason of one's own": (422, "field_wrong_value"),
        "another star": (409, "star_not_held"),
        "the bureau proposes again": (409, "revocation_already_proposed"),
        "the proposer approves": (403, "approver_is_requester"),
        "the holder approves": (403, "approver_is_subject"),
        "the holder rejects": (403, "approver_is_subject"),
        "the unit approves": (403, "role_not_allowed"),
        "approved again": (404, "revocation_not_proposed"),
    }


def test_what_is_only_proposed_takes_nothing_and_stands_on_no_page(taken: Taken) -> None:
    assert [each["stars"] for each in taken.while_proposed] == [1]
    assert "已评星" in taken.page_while_proposed
    assert "撤销" not in taken.page_while_proposed


async def test_the_star_is_gone_from_every_list_and_page(stage: Stage, taken: Taken) -> None:
    who = taken.volunteer
    assert await held(stage, who, taken.after) == []
    [overview] = [
        each
        for each in await rows(stage.bureau("registration"), "/volunteer-overview", taken.after, unit=UNIT, limit="200")
        if each["volunteer_id"] == str(who.id)
    ]
    assert (overview["stars"], overview["timed_minutes"]) == (0, 180)
    for page in ("/", "/view/stars?limit=200"):
        assert str(who.id)[-8:] not in (await stage.self_("recognition", who.id).get(page)).text
    events = (await stage.self_("recognition", who.id).get(f"/view/streams/star-{who.id}/events?lang=zh")).text
    assert "已撤销星级" in events
    assert "不实" not in events


async def test_an_admin_sees_in_sql_that_it_was_revoked_and_not_withdrawn(stage: Stage, taken: Taken) -> None:
    await held(stage, taken.volunteer, taken.after)
    async with logged_in(stage.stack, "recognition", None) as admin, logged_in(stage.stack, "recognition", [UNIT]) as unit:
        who = taken.volunteer.id
        assert await admin.fetchval("SELECT count(*) FROM api.stars WHERE volunteer_id = $1", who) == 0
        history = "SELECT outcome, reason FROM api.star_history WHERE volunteer_id = $1 ORDER BY position DESC"
        assert [tuple(row) for row in await admin.fetch(history, who)] == [("revoked", "false_record"), ("granted", None)]
        assert [tuple(row) for row in await unit.fetch(history, who)] == [("revoked", "false_record"), ("granted", None)]
        proposals = "SELECT state, proposed_by <> decided_by AS by_two FROM api.star_revocations WHERE proposal_id = $1"
        assert [tuple(row) for row in await admin.fetch(proposals, taken.proposal_id)] == [("revoked", True)]
        assert await unit.fetch(proposals, taken.proposal_id) == []


async def test_the_hours_do_not_bring_it_back(stage: Stage, taken: Taken) -> None:
    again = await command(stage.self_("recognition", taken.volunteer.id), f"/volunteers/{taken.volunteer.id}/stars", {})
    assert code_of(again) == (409, "star_revoked")


async def test_the_person_is_told_of_it_in_their_copy(stage: Stage, taken: Taken) -> None:
    who = taken.volunteer.id
    tables = (await stage.self_("recognition", who).get(f"/api/v1/volunteers/{who}/copy")).json()["tables"]
    assert [(each["state"], each["reason"]) for each in tables["star_revocations"]] == [("revoked", "false_record")]


async def test_the_documents_say_how(stage: Stage) -> None:
    bureau = stage.bureau("recognition")
    document = (await bureau.get("/api/v1/openapi.json")).json()
    approve = document["paths"]["/api/v1/volunteers/{volunteer_id}/revocations/{proposal_id}/approve"]["post"]
    assert "approver_is_requester" in str(approve)
    assert "serious_dishonesty" in str(document["components"])
    assert "recognition.star_revoked" in (await bureau.get("/asyncapi.json")).text
    codes = {each["code"] for each in (await bureau.get("/problems.json")).json()["problems"]}
    assert codes >= {"star_revoked", "star_not_held", "revocation_already_proposed", "revocation_not_proposed", "proposer_is_subject"}
