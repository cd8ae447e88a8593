"""What is written about a person is sealed in every log, said in no line of any process, and gone from every view once it is erased."""

import asyncio
from datetime import date
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from deploy.local.environment import SERVICES
from deploy.sample.year import id_number
from shared.audit.heads import ChainHead
from shared.recover import last_word
from tests.e2e.stack import Stack, command
from tests.e2e.stage import UNIT, Activity, Stage, Volunteer, accepted, on, rows
from tests.integration.recover.conftest import run

CANARIES: Final = {field: f"canary-{uuid4().hex}" for field in ("name", "guardian", "skill", "override", "role")}
"""A text for each field that takes words about a person."""
COMPLETED_WITHIN_S: Final = 30.0
SHOWN_TO_STAFF: Final = {"skill", "override"}


@pytest.fixture(scope="module")
async def person(stage: Stage) -> UUID:
    """A minor with a canary in every field, seated against a clash and relieved of a role."""
    who, day = uuid4(), await stage.day()
    number = id_number(date(2005, 5, 1), 901)
    said = stage.registration(CANARIES["name"], id_number=number, guardian_name=CANARIES["guardian"], skills=[CANARIES["skill"]])
    answer = accepted(await command(stage.self_("registration", who), "/volunteers", said, After=stage.programme_at))
    one = await stage.activity(on(day, "09:00"), on(day, "11:00"))
    other = await stage.activity(on(day, "10:00"), on(day, "12:00"))
    seat = await stage.enroll(Volunteer(who, CANARIES["name"], number, said["phone"], answer["position"]), one)
    await _override(stage, who, other, seat["position"])
    role = {"role": "activity_leader", "unit_code": UNIT}
    accepted(await command(stage.bureau("registration"), f"/people/{who}/roles", role))
    accepted(await command(stage.bureau("registration"), f"/people/{who}/roles/withdraw", {**role, "reason": CANARIES["role"]}))
    await stage.stack.settled()
    return who


async def _override(stage: Stage, who: UUID, activity: Activity, after: str) -> None:
    body = {"volunteer_id": str(who), "position": "cleaner", "override_reason": CANARIES["override"]}
    accepted(
        await command(stage.leader("registration"), f"/activities/{activity.id}/enrollments", body, After=f"{after}, {activity.after}")
    )


async def _found(stack: Stack, schemas: tuple[str, ...]) -> set[str]:
    """The canaries that stand in the clear in any table or view of these schemas."""
    found = set[str]()
    for service in SERVICES:
        names = await stack.sql(
            service,
            """
            SELECT format('%I.%I', space.nspname, relname) AS name FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace
            WHERE space.nspname ~ $1 AND relkind IN ('r', 'v', 'p')
            """,
            f"^({'|'.join(schemas)})$",
        )
        for (name,) in names:
            for (row,) in await stack.sql(service, f"SELECT to_jsonb(one)::text FROM {name} AS one"):
                found |= {field for field, words in CANARIES.items() if words in row or words.encode().hex() in row}
    return found


def _logged(stack: Stack) -> set[str]:
    lines = "".join(each.read_text(encoding="utf-8", errors="replace") for each in stack.folder.glob("*.log"))
    assert lines
    return {field for field, words in CANARIES.items() if words in lines}


async def test_a_reveal_and_a_copy_are_written_down_in_a_chain_before_anything_is_shown(stage: Stage, person: UUID) -> None:
    said = {"fields": ["name", "guardian_name"], "reason": "identity_check"}
    path = f"/api/v1/volunteers/{person}/reveal"
    shown = await stage.bureau("registration").post(path, json=said)
    assert shown.status_code == 200, shown.text
    assert shown.json()["fields"] == {"name": CANARIES["name"], "guardian_name": CANARIES["guardian"]}
    for wrong in ({"fields": ["secret"]}, {"reason": "核对赵大山"}):
        refused = await stage.bureau("registration").post(path, json={**said, **wrong})
        assert (refused.status_code, refused.json()["code"]) == (422, "field_wrong_value")
    assert (await stage.self_("registration", person).post(path, json=said)).status_code == 403
    copies = []
    for service in SERVICES:
        copies.append(await stage.self_(service, person).get(f"/api/v1/volunteers/{person}/copy"))
        workbook = await stage.self_(service, person).get(f"/api/v1/volunteers/{person}/copy", params={"format": "xlsx"})
        assert workbook.content.startswith(b"PK"), workbook.text
        assert (await stage.self_(service, uuid4()).get(f"/api/v1/volunteers/{person}/copy")).status_code == 403
    assert copies[0].json()["fields"]["name"] == CANARIES["name"]
    assert [set(each.json()["tables"]) for each in copies] == [
        {"record", "enrollments"}, {"balances", "attendances", "entries"}, {"stars", "star_revocations"},
    ]  # fmt: skip
    listed = await stage.bureau("registration").get("/api/v1/personal-data-reads", params={"subject": str(person)})
    assert [(row["what"], row["why"]) for row in listed.json()["items"]] == [
        ("reveal", "identity_check"), ("copy", "own copy"), ("copy", "own copy"),
    ]  # fmt: skip
    assert not any(words in listed.text for words in CANARIES.values())
    verified = await run("registration", stage.stack.environment("registration"), "verify")
    assert (verified.code, "reads of personal data: 3 in an unbroken chain" in verified.out) == (0, True), verified.out


async def test_the_end_of_the_chain_is_missed_by_what_was_said_of_it_on_kafka_and_in_a_file(
    stage: Stage, person: UUID, tmp_path: Path
) -> None:
    stack, file = stage.stack, tmp_path / "reads.jsonl"
    said = {"fields": ["name"], "reason": "identity_check"}
    assert (await stage.bureau("registration").post(f"/api/v1/volunteers/{person}/reveal", json=said)).status_code == 200
    log_id = (await stack.sql("registration", "SELECT log_id FROM es.log"))[0]["log_id"]
    (last,) = await stack.sql("registration", "SELECT number, hash FROM audit.read ORDER BY number DESC LIMIT 1")
    head = ChainHead(number=last["number"], hash=last["hash"].hex())
    end = monotonic() + COMPLETED_WITHIN_S
    while head not in (await last_word(stack.kafka.servers, stack.prefix, "registration", log_id)).reads:
        assert monotonic() < end, "the relay does not say it"
        await asyncio.sleep(0.5)
    on_kafka = stack.environment("registration")
    with_file = {**on_kafka, "REGISTRATION_READS_FILE": str(file)}
    published = await run("registration", with_file, "reads", "publish")
    assert f"registration: {head.number} reads, {head.hash}\nadded to reads.jsonl" in published.out, published.out
    for environment in (on_kafka, with_file):
        verified = await run("registration", environment, "verify")
        assert verified.code == 0, verified.out
        assert f"in an unbroken chain, as it was published up to number {head.number}" in verified.out
    await stack.sql("registration", "ALTER TABLE audit.read DISABLE TRIGGER read_never_changes")
    await stack.sql("registration", "CREATE TABLE public.cut AS SELECT * FROM audit.read ORDER BY number DESC LIMIT 1")
    try:
        await stack.sql("registration", "DELETE FROM audit.read WHERE number = $1", head.number)
        for environment in (on_kafka, with_file):
            verified = await run("registration", environment, "verify")
            assert verified.code == 1
            assert f"number {head.number}: the rows up to {head.number} are cut off" in verified.out, verified.out
    finally:
        await stack.sql("registration", "INSERT INTO audit.read SELECT * FROM public.cut ON CONFLICT DO NOTHING")
        await stack.sql("registration", "DROP TABLE public.cut")
        await stack.sql("registration", "ALTER TABLE audit.read ENABLE ALWAYS TRIGGER read_never_changes")


async def test_texts_about_a_person_are_clear_in_no_log_and_gone_from_every_view_once_erased(stage: Stage, person: UUID) -> None:
    stack = stage.stack
    assert await _found(stack, ("es", "consumer", "keys", "lookup")) == set()
    assert await _found(stack, ("api",)) == SHOWN_TO_STAFF
    assert _logged(stack) == set()
    refused = await command(stage.leader("registration"), f"/volunteers/{person}/erasure", {})
    assert (refused.status_code, refused.json()["code"]) == (403, "role_not_allowed")
    accepted(await command(stage.self_("registration", person), f"/volunteers/{person}/erasure", {"reason": CANARIES["name"]}))
    accepted(await command(stage.bureau("registration"), f"/volunteers/{person}/erasure/approve", {}))
    await stack.settled()
    assert await _found(stack, ("es", "consumer", "keys", "lookup", "audit", "api", "views_.*")) == set()
    assert _logged(stack) == set()
    proof = await _proof(stage, person)
    assert proof["requested_by"] == str(person)
    assert proof["requested_position"] < proof["erased_position"] < proof["completed_position"]
    assert proof["hours_position"] > 0 < proof["recognition_position"]
    for service in SERVICES:
        said = [await run(service, stack.environment(service), each) for each in ("digest", "rebuild", "digest")]
        shown, built = ([line for line in each.out.splitlines() if line.endswith("  all")] for each in said[::2])
        assert said[1].code == 0, said[1].out
        assert shown == built != [], "what is built anew after an erasure is what was shown"
    assert await _found(stack, ("api", "views_.*")) == set()


async def test_who_was_erased_is_given_no_star_and_begins_no_service_and_what_they_served_still_counts(stage: Stage) -> None:
    day = await stage.day()
    leaver = await stage.volunteer("郑十一")
    served, missed = await stage.activity(on(day, "09:00"), on(day, "11:00")), await stage.activity(on(day, "13:00"), on(day, "15:00"))
    entry = await stage.served(leaver, served, on(day, "09:00"), on(day, "11:00"))
    await stage.enroll(leaver, missed)
    accepted(await command(stage.self_("registration", leaver.id), f"/volunteers/{leaver.id}/erasure", {}))
    accepted(await command(stage.bureau("registration"), f"/volunteers/{leaver.id}/erasure/approve", {}))
    await stage.stack.settled()
    await stage.confirm(entry)
    await stage.stack.travel(on(day, "13:00"))
    await stage.stack.settled()
    (balance,) = await rows(stage.bureau("hours"), "/balances", volunteer=str(leaver.id))
    assert balance["timed_minutes"] == 120, "enough for a star"
    clients = (stage.self_("recognition", leaver.id), stage.leader("recognition"), stage.bureau("recognition"))
    answers = [await command(client, f"/volunteers/{leaver.id}/stars", {}) for client in clients]
    answers.append(await stage.door("check-in", leaver, missed))
    assert [(each.status_code, each.json()["code"]) for each in answers] == [(410, "person_erased")] * 4


async def _proof(stage: Stage, person: UUID) -> dict[str, Any]:
    """The row that proves the erasure, once every service has said over Kafka that it did its part."""
    end = monotonic() + COMPLETED_WITHIN_S
    while True:
        answer = await stage.bureau("registration").get("/api/v1/erasures", params={"volunteer": str(person)})
        (row,) = answer.json()["items"]
        if row["state"] == "completed":
            return dict(row)
        assert monotonic() < end, row
        await asyncio.sleep(0.1)
