"""A database is restored from an older copy while Kafka has gone on: nothing is appended before `recover`, and then nothing is missing."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.integration.recover.conftest import SERVICE, Person, Ran, Site
from tests.integration.relay.conftest import until

Picture = dict[str, list[tuple[Any, ...]]]

_EVENTS = """
    SELECT position, category, stream_id, version, event_id, type, schema_version, time, command_id, correlation_id, causation_id, actor,
        partition_key, traceparent, payload FROM es.event ORDER BY position
"""
_ANSWERS = (
    "SELECT command_id, outcome, position, event_count FROM es.command WHERE outcome = 'accepted' AND event_count > 0 ORDER BY position"
)
_CLAIMS = "SELECT scope, value, category, stream_id FROM es.claim ORDER BY scope, value"
_SEALED = "SELECT position, hash FROM es.seal ORDER BY position DESC LIMIT 1"
_DEADLINES = "SELECT name, key, due_at, use_case, set_by, set_at FROM consumer.deadline ORDER BY name, key"
_WITHDRAWN = "SELECT subject, kind, position, given_position FROM consumer.withdrawn ORDER BY subject, kind"
_KEYS = "SELECT subject, wrapped IS NULL AS destroyed FROM keys.person ORDER BY subject"


async def picture(site: Site) -> Picture:
    """Everything that must come back."""
    named = {
        "events": _EVENTS, "answers": _ANSWERS, "claims": _CLAIMS, "sealed": _SEALED, "deadlines": _DEADLINES, "withdrawn": _WITHDRAWN,
        "keys": _KEYS,
    }  # fmt: skip
    found = {name: [tuple(row.values()) for row in await site.sql(SERVICE, sql)] for name, sql in named.items()}
    tables = await site.sql(SERVICE, "SELECT tablename FROM pg_tables WHERE schemaname = 'lookup' ORDER BY 1")
    for (table,) in tables:
        rows = await site.sql(SERVICE, f'SELECT to_jsonb(kept)::text FROM lookup."{table}" AS kept ORDER BY 1')
        found[f"lookup.{table}"] = [tuple(row.values()) for row in rows]
    return found


@dataclass
class Story:
    """What was, what was answered meanwhile, and what is after `recover`."""

    site: Site
    known: Person
    new: Person
    erased: Person
    late: Person
    activity: UUID
    enrolled: Any
    before: Picture
    while_closed: list[httpx.Response]
    closed_as: str
    ran: Ran
    recovered: Picture
    now: Picture


@pytest.fixture(scope="module")
async def story(site: Site) -> Story:
    """Life goes on after the copy was made; then the copy is put in its place, people ask, and `recover` runs. The worker comes last."""
    known, new, erased, late = (site.person() for _ in range(4))
    site.start_service()
    await site.adopt()
    for person in (known, erased):
        assert (await site.register(person)).status_code == 200
    activity = await site.publish()
    await site.caught_up()
    site.stop()
    copy = site.back_up()
    site.start_service()
    assert (await site.register(new)).status_code == 200
    await site.caught_up()
    enrolled = await site.enroll(known, activity, key="seat")
    assert (await site.enroll(new, activity)).status_code == 200
    assert (await site.withdraw(known, activity)).status_code == 200
    assert (await site.erase(erased)).status_code == 200
    await until(lambda: acknowledged(site))
    await until(lambda: nothing_to_acknowledge(site))
    await site.caught_up()
    site.stop()
    before = await picture(site)
    site.restore(copy)

    site.start(f"{SERVICE}-api")
    while_closed = [
        await site.register(late),
        await site.enroll(known, activity, key="seat"),
        await site.register(new, key="once-more-0001"),
    ]
    closed_as = await site.state()
    ran = await site.run("recover", "--reason", "the disk broke", "--by", "操作员")
    recovered = await picture(site)
    site.start(f"{SERVICE}-worker")
    await site.caught_up()
    await until(lambda: nothing_to_acknowledge(site))
    now = await picture(site)
    return Story(site, known, new, erased, late, activity, enrolled.json(), before, while_closed, closed_as, ran, recovered, now)


async def test_nothing_is_appended_before_recover_has_run(story: Story) -> None:
    assert [(each.status_code, each.json()["code"]) for each in story.while_closed] == [(503, "log_closed")] * 3
    assert story.closed_as == "recovering"


async def test_events_answers_seals_look_ups_deadlines_and_withdrawals_are_as_they_were(story: Story) -> None:
    assert story.ran.code == 0, story.ran.out
    assert story.before["deadlines"], "the story has an offer that waits for an answer"
    same = [name for name in story.before if name not in {"claims", "keys"}]
    for name in same:
        assert story.now[name] == story.before[name], name


async def test_claims_are_as_they_were_except_that_of_a_person_whose_key_was_younger_than_the_copy(story: Story) -> None:
    assert story.recovered["claims"] == story.now["claims"]
    lost = [(scope, stream) for scope, _, _, stream in set(story.before["claims"]) - set(story.now["claims"])]
    assert lost == [("id_number", story.new.id)]
    assert not set(story.now["claims"]) - set(story.before["claims"])
    assert [line for line in story.ran.out.splitlines() if line.startswith("key lost")] == [
        f"key lost, sealed fields read null, claims not rebuilt: {story.new.id}"
    ]


async def test_an_erased_person_stays_erased_although_the_copy_had_the_key(story: Story) -> None:
    assert (story.erased.id, True) in story.recovered["keys"], "before any consumer has read of it"
    assert (story.erased.id, True) in story.now["keys"]


async def test_a_retry_of_before_the_restore_gets_the_first_answer_and_has_no_second_effect(story: Story) -> None:
    again = await story.site.enroll(story.known, story.activity, key="seat")
    assert again.status_code == 200
    assert (again.json()["position"], again.json()["events"]) == (story.enrolled["position"], story.enrolled["events"])
    assert (await picture(story.site))["events"] == story.now["events"]


async def test_a_person_whose_key_was_lost_goes_on_under_another_and_blocks_nobody(story: Story) -> None:
    consent = {"consent": "be_named", "text_version": "2017-1"}
    answer = await story.site.ask(f"/volunteers/{story.new.id}/consents", consent, story.new.id, "volunteer")
    assert answer.status_code == 200, answer.text
    assert (await story.site.register(story.late)).status_code == 200
    await story.site.caught_up()
    assert not await story.site.sql(SERVICE, "SELECT FROM consumer.parked")


async def test_the_offer_of_before_the_restore_expires_once(story: Story) -> None:
    await story.site.move_clock("2017-03-31T09:00")
    await until(lambda: expired(story.site, 1))
    await story.site.caught_up()
    assert await expired(story.site, 1)


async def test_who_recovered_and_why_is_kept(story: Story) -> None:
    rows = await story.site.sql(SERVICE, "SELECT was, becomes, who, reason FROM es.log_change WHERE subject = 'log' ORDER BY number")
    assert [tuple(row.values()) for row in rows[-2:]] == [
        ("open", "recovering", "relay", "Kafka holds what the log does not"),
        ("recovering", "open", "操作员", "the disk broke"),
    ]


async def acknowledged(site: Site) -> bool:
    """Whether the service has said that it let go of the one who was erased."""
    rows = await site.sql(SERVICE, "SELECT count(*) AS n FROM es.event WHERE type = 'registration.erasure_receipt_recorded'")
    return bool(rows[0]["n"] == 1)


async def nothing_to_acknowledge(site: Site) -> bool:
    """Whether the deadline of the receipt, which came again with the rest, has been answered as at first."""
    return not await site.sql(SERVICE, "SELECT FROM consumer.deadline WHERE name = 'acknowledge_erasure'")


async def expired(site: Site, times: int) -> bool:
    """Whether so many offers have expired."""
    rows = await site.sql(SERVICE, "SELECT count(*) AS n FROM es.event WHERE type = 'registration.offer_expired'")
    return bool(rows[0]["n"] == times)
