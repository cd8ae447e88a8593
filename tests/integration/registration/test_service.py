"""The whole of registration but HTTP and Kafka: commands through `submit`, what is learned from the log, what an admin sees."""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest

from services.registration.inbox import release_seats
from services.registration.main import SERVICE
from services.registration.programme_file import proposal_of
from services.registration.projections import QUERIES, activities, erasures, programmes, proposals, volunteer_records, volunteers
from shared.audit import Chain, check
from shared.consumer.values import Fact, NotYetError, system_actor
from shared.consumer.withdrawals import withdrawal_fold
from shared.contracts.event import SEALED_PREFIX
from shared.contracts.hours import Posting, ServiceTimeConfirmed
from shared.contracts.recognition import StarGranted, StarRevoked, StarWithdrawn
from shared.contracts.registration import (
    ClashOverridden,
    DeviceLoss,
    EnrollmentWithdrawn,
    PersonalDataErased,
    RoleWithdrawn,
    UnitKind,
    VolunteerDeregistered,
)
from shared.eventstore.values import Answer
from shared.http.accounts import FORGET, Accounts
from shared.http.audited import READS
from shared.http.problems import ProblemError
from shared.permissions import Actor, Role
from shared.postgres import connect
from shared.privacy import is_there
from tests.integration.codes import allowed, words_of
from tests.integration.registration.conftest import AUDITOR, BUREAU, CODEC, DEPUTY, UNIT, UNIT_ADMIN, Registration, volunteer
from tests.integration.relay.conftest import until
from tests.unit.registration.people import id_number

SAMPLE = (Path(__file__).parents[3] / "deploy/sample/programme-2017.yaml").read_text(encoding="utf-8")
NAMES = ("测试甲", "测试乙", "测试丙", "测试丁")


def code_of(answer: Answer) -> str | None:
    return answer.refusal.code if answer.refusal else None


def body(**fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


async def adopt(registration: Registration, file: str = SAMPLE) -> None:
    """One proposes it, and another approves it."""
    assert code_of(await registration.ask("propose_programme", body(file=file), BUREAU)) is None
    answer = await registration.ask("approve_programme", b"{}", DEPUTY, proposal_id=proposal_of(file)[0])
    assert code_of(answer) is None
    await registration.catch_up()


async def register(registration: Registration, person_id: UUID, number: int, **more: Any) -> Answer:
    said = {
        "unit_code": UNIT,
        "name": NAMES[number % len(NAMES)],
        "id_number": id_number(sequence=f"{number:03d}"),
        "phone": "13800000000",
        "consents": ["register", "be_named"],
        "consent_text_version": "2017-1",
    }
    return await registration.ask("register_volunteer", body(**said | more), volunteer(person_id))


async def people(registration: Registration, count: int) -> list[UUID]:
    made = [uuid4() for _ in range(count)]
    for number, person_id in enumerate(made):
        assert code_of(await register(registration, person_id, number)) is None
    await registration.catch_up()
    return made


async def erase(registration: Registration, who: UUID) -> None:
    """The person asks, and the bureau approves."""
    assert code_of(await registration.ask("request_erasure", b"{}", volunteer(who), volunteer_id=who)) is None
    assert code_of(await registration.ask("approve_erasure", b"{}", BUREAU, volunteer_id=who)) is None


async def publish(registration: Registration, starts_at: datetime, capacity: int = 1, asker: Actor = UNIT_ADMIN, **more: Any) -> UUID:
    said = {
        "unit_code": UNIT,
        "title": "世界水日巡河",
        "carrier": "caring-for-nature",
        "occasion": "world-water-day",
        "place": "河道三号段",
        "starts_at": starts_at.isoformat(),
        "ends_at": (starts_at + timedelta(hours=2)).isoformat(),
        "positions": [{"code": "guide", "name": "引导员", "capacity": capacity}],
    }
    answer = await registration.ask("publish_activity", body(**said | more), asker)
    assert code_of(answer) is None
    await registration.catch_up()
    return (await registration.store.read_page(answer.first_position - 1, 1))[0].stream.id


async def enroll(registration: Registration, activity_id: UUID, who: UUID, **more: Any) -> Answer:
    said = body(volunteer_id=str(who), position="guide", **more)
    return await registration.ask("enroll", said, volunteer(who), activity_id=activity_id)


async def standing_of(registration: Registration, activity_id: UUID) -> dict[UUID, str]:
    await registration.catch_up()
    found = await registration.rows(activities.ENROLLMENTS, AUDITOR, activity=activity_id)
    return {row["volunteer_id"]: row["standing"] for row in found}


async def test_a_file_is_imported_once(registration: Registration) -> None:
    await adopt(registration)
    again = await registration.ask("propose_programme", body(file=SAMPLE), BUREAU)
    assert (again.outcome, again.count) == ("accepted", 0)
    broken = await registration.ask(
        "propose_programme", body(file=SAMPLE.replace("code: tree-planting\n", "code: legal-outreach\n")), BUREAU
    )
    assert code_of(broken) == "programme_file_invalid"
    assert [row["code"] for row in await registration.rows(programmes.WORDS, year=2017, kind="target_group")] == [
        "elders-living-alone",
        "left-behind-children",
        "people-with-disabilities",
        "workers-in-difficulty",
    ]
    assert len(await registration.rows(programmes.UNITS, limit=3)) == 7


async def test_both_persons_see_what_is_about_to_be_imported_and_until_then_nothing_counts(registration: Registration) -> None:
    proposal_id, digest = proposal_of(SAMPLE)
    assert code_of(await registration.ask("propose_programme", body(file=SAMPLE), BUREAU)) is None
    await registration.catch_up()
    (waiting,) = await registration.rows(proposals.QUERY, DEPUTY, state="proposed")
    assert (waiting["proposal_id"], waiting["file_digest"], waiting["proposed_by"]) == (proposal_id, digest, BUREAU.person_id)
    assert (waiting["units"], waiting["units_new"], waiting["words"], waiting["compared_with"]) == (7, 7, 18, None)
    assert len(await registration.rows(proposals.UNITS, DEPUTY, limit=2, proposal=proposal_id)) == 7
    assert await registration.rows(programmes.UNITS) == await registration.rows(programmes.WORDS) == []
    role = body(role="unit_admin", unit_code=UNIT)
    assert code_of(await registration.ask("grant_role", role, BUREAU, person_id=uuid4())) == "unit_unknown"

    assert code_of(await registration.ask("approve_programme", b"{}", BUREAU, proposal_id=proposal_id)) == "approver_is_requester"
    assert code_of(await registration.ask("approve_programme", b"{}", DEPUTY, proposal_id=proposal_id)) is None
    await registration.catch_up()
    (done,) = await registration.rows(proposals.QUERY, AUDITOR, year=2017)
    assert (done["state"], done["approved_by"]) == ("adopted", DEPUTY.person_id)
    assert len(await registration.rows(programmes.UNITS)) == 7
    await registration.fire_due()
    registration.now += timedelta(days=30)
    await registration.fire_due()
    assert (await registration.rows(proposals.QUERY, AUDITOR))[0]["state"] == "adopted"


async def test_a_proposed_programme_lapses_after_five_working_days(registration: Registration) -> None:
    proposal_id, _ = proposal_of(SAMPLE)
    registration.now = datetime.fromisoformat("2017-03-30T09:00:00+08:00")  # Tomb Sweeping: 1 April is worked, 2 to 4 are not.
    await registration.ask("propose_programme", body(file=SAMPLE), BUREAU)
    await registration.catch_up()
    registration.now = datetime.fromisoformat("2017-04-07T23:59:59+08:00")
    await registration.fire_due()
    await registration.catch_up()
    assert (await registration.rows(proposals.QUERY, AUDITOR))[0]["state"] == "proposed"
    registration.now = datetime.fromisoformat("2017-04-08T00:00:00+08:00")
    await registration.fire_due()
    await registration.catch_up()
    assert (await registration.rows(proposals.QUERY, AUDITOR))[0]["state"] == "lapsed"
    assert code_of(await registration.ask("approve_programme", b"{}", DEPUTY, proposal_id=proposal_id)) == "programme_not_proposed"
    await adopt(registration)
    assert (await registration.rows(proposals.QUERY, AUDITOR))[0]["state"] == "adopted"


async def test_an_id_number_is_registered_once_until_it_is_erased(registration: Registration) -> None:
    await adopt(registration)
    first, second = uuid4(), uuid4()
    assert code_of(await register(registration, first, 1)) is None
    assert code_of(await register(registration, second, 1)) == "id_number_taken"
    await erase(registration, first)
    assert code_of(await register(registration, second, 1)) is None


async def test_nothing_personal_stands_in_the_log_and_an_erasure_empties_the_views(registration: Registration) -> None:
    await adopt(registration)
    (who,) = await people(registration, 1)
    (row,) = await registration.rows(volunteers.QUERY, AUDITOR)
    assert (row["masked_name"], row["may_be_named"], row["standing"]) == ("测**", True, "registered")
    payloads = [bytes(each.payload) for each in await registration.store.read_page(0, 500)]
    for clear in (NAMES[0], id_number(sequence="000"), "13800000000"):
        assert not any(clear.encode() in payload for payload in payloads)
    assert any(SEALED_PREFIX.encode() in payload for payload in payloads)

    await erase(registration, who)
    await registration.catch_up()
    live = await registration.pool.fetch("SELECT * FROM volunteers")
    assert (live[0]["name"], live[0]["skills"], live[0]["standing"]) == (None, None, "erased")
    await registration.pool.execute("DELETE FROM volunteers")
    replayed = [fact for fact in await registration.facts_from_the_start() if fact.record.stream.category == "volunteer"]
    async with registration.pool.acquire() as connection:
        await volunteers.fold(connection, replayed)
    assert await registration.pool.fetch("SELECT * FROM volunteers") == live


async def test_who_comes_back_keeps_number_and_id_number_and_an_erasure_frees_the_id_number(registration: Registration) -> None:
    await adopt(registration)
    who, other = uuid4(), uuid4()
    await register(registration, who, 1)
    await registration.ask("leave_programme", b"{}", volunteer(who), volunteer_id=who)
    assert code_of(await register(registration, who, 2)) == "id_number_differs"
    assert code_of(await register(registration, other, 1)) == "id_number_taken"
    assert code_of(await register(registration, who, 1)) is None
    await erase(registration, who)
    assert code_of(await register(registration, other, 1)) is None
    assert await registration.pool.fetchval("SELECT count(*) FROM es.claim WHERE scope = 'id_number'") == 1


CANARIES = {field: f"金丝雀{word}号" for field, word in zip(("name", "guardian", "skill", "override", "role"), "甲乙丙丁戊", strict=True)}
"""Texts about a person, one for each field that takes them."""


def canaries_in(rows: Sequence[str]) -> set[str]:
    return {field for field, words in CANARIES.items() if any(words in row for row in rows)}


async def views(registration: Registration) -> list[str]:
    """Every row of every view that somebody sees who sees every unit."""
    connection = await connect(registration.dsn, "tests")
    names = await connection.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'api'")
    await connection.execute("SET ROLE scratch_owner_query; SET leifeng.reach = 'bureau'")
    found = [row for (name,) in names for (row,) in await connection.fetch(f'SELECT to_jsonb(one)::text FROM api."{name}" AS one')]
    await connection.close()
    return found


async def tables(registration: Registration) -> list[str]:
    """Every row of every read model and look-up."""
    names = await registration.pool.fetch("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('views_1', 'lookup')")
    return [
        row for schema, name in names for (row,) in await registration.pool.fetch(f"SELECT to_jsonb(one)::text FROM {schema}.{name} AS one")
    ]


async def play_canaries(registration: Registration) -> UUID:
    """Somebody with a canary in every text about them: registered, seated against a clash, and relieved of a role."""
    await adopt(registration)
    who = uuid4()
    born = {"id_number": id_number("20050301"), "consents": ["register"], "name": CANARIES["name"], "guardian_name": CANARIES["guardian"]}
    assert code_of(await register(registration, who, 1, **born, skills=[CANARIES["skill"], "急救"])) is None
    await registration.catch_up()
    start = registration.now + timedelta(days=5)
    first, second = await publish(registration, start), await publish(registration, start + timedelta(hours=1))
    assert code_of(await enroll(registration, first, who)) is None
    await registration.catch_up()
    said = body(volunteer_id=str(who), position="guide", override_reason=CANARIES["override"])
    assert code_of(await registration.ask("enroll", said, UNIT_ADMIN, activity_id=second)) is None
    role = {"role": "activity_leader", "unit_code": UNIT}
    await registration.ask("grant_role", body(**role), BUREAU, person_id=who)
    await registration.ask("withdraw_role", body(**role, reason=CANARIES["role"]), BUREAU, person_id=who)
    await registration.catch_up()
    return who


async def test_no_text_about_a_person_stands_clear_in_the_log_and_an_erasure_takes_it_out_of_every_view(registration: Registration) -> None:
    who = await play_canaries(registration)

    async def clear_in_the_log() -> set[str]:
        events = await registration.store.read_page(0, 500)
        return {field for field, words in CANARIES.items() if any(words.encode() in bytes(each.payload) for each in events)}

    assert await clear_in_the_log() == set()
    assert canaries_in(await views(registration)) == {"skill", "override"}  # Those that staff are shown, until then.
    await erase(registration, who)
    await registration.catch_up()
    assert await clear_in_the_log() == set()
    assert canaries_in([*await views(registration), *await tables(registration)]) == set()


async def test_texts_about_a_person_are_hidden_from_the_erasure_on_though_the_read_models_are_behind(registration: Registration) -> None:
    who = await play_canaries(registration)
    withdrawn = "INSERT INTO consumer.withdrawn (subject, kind, position) VALUES ($1, 'person', 1000)"
    await registration.pool.execute(withdrawn, who)
    assert canaries_in(await views(registration)) == set()


async def test_who_agreed_is_named_in_public_until_they_withdraw_also_while_the_read_models_are_behind(registration: Registration) -> None:
    """`withdrawals` alone hides the name: the person's own key may be parked for `views`."""
    await adopt(registration)
    who, silent = uuid4(), uuid4()
    await register(registration, who, 1)
    await register(registration, silent, 2, consents=["register"])
    await registration.catch_up()
    assert [row["name"] for row in await registration.rows(volunteers.NAMED)] == [NAMES[1]]
    assert code_of(await registration.ask("withdraw_consent", body(consent="be_named"), volunteer(who), volunteer_id=who)) is None
    fact = (await registration.facts_from_the_start())[-1]
    async with registration.pool.acquire() as connection, connection.transaction():
        await withdrawal_fold(registration.keys, SERVICE.consumers, CODEC)(connection, [fact])
    assert await registration.rows(volunteers.NAMED) == []


async def test_an_erasure_is_asked_approved_received_for_and_proven(registration: Registration) -> None:
    await adopt(registration)
    (who,) = await people(registration, 1)

    async def row() -> Mapping[str, Any]:
        await registration.catch_up()
        (found,) = await registration.rows(erasures.QUERY, AUDITOR, volunteer=who)
        return found

    assert code_of(await registration.ask("request_erasure", body(reason=CANARIES["role"]), volunteer(who), volunteer_id=who)) is None
    asked = await row()
    assert (asked["state"], asked["requested_by"], asked["erased_at"]) == ("requested", who, None)
    await registration.ask("approve_erasure", b"{}", BUREAU, volunteer_id=who)
    assert (await row())["state"] == "erased"
    await registration.fire_due()
    received = await row()
    assert (received["registration_receipt_at"] is not None, received["sign_in_destroyed"]) == (True, True)
    for service, position in (("hours", 7), ("recognition", 9), ("recognition", 9)):
        said = body(service=service, position=position)
        assert code_of(await registration.ask("record_erasure_receipt", said, system_actor("registration"), volunteer_id=who)) is None
    done = await row()
    assert (done["state"], done["hours_position"], done["recognition_position"]) == ("completed", 7, 9)
    assert done["requested_position"] < done["erased_position"] < done["completed_position"]
    assert done["approved_by"] == str(BUREAU)
    assert not any(clear in str(done) for clear in (*NAMES, id_number(sequence="000"), CANARIES["role"]))
    state = await registration.pool.fetchval("SELECT state FROM consumer.erasure WHERE subject = $1", who)
    assert state == "completed"


PASSWORD = "korrekt pferd batterie"


async def signing_in(registration: Registration, who: UUID, login: str) -> tuple[Accounts, str, str]:
    """Somebody with a local account, a session and a link that was not used: the accounts, the session's key, the link's."""
    accounts = Accounts(registration.pool)
    links = [await accounts.new_link(who) for _ in range(2)]
    first = await accounts.use_link(links[0] or "")
    assert first is not None
    assert await accounts.set_password(who, login, PASSWORD, keep=first[1])
    return accounts, first[1], links[1] or ""


async def test_an_erasure_takes_login_sessions_and_links_with_it_and_the_person_cannot_sign_in(registration: Registration) -> None:
    await adopt(registration)
    who, other = await people(registration, 2)
    accounts, session, link = await signing_in(registration, who, "lin.xiaoxi")
    await signing_in(registration, other, "another")
    assert await accounts.check("lin.xiaoxi", PASSWORD) == who
    assert await accounts.session(session) is not None
    await erase(registration, who)
    fact = (await registration.facts_from_the_start())[-1]
    async with registration.pool.acquire() as connection, connection.transaction():
        await withdrawal_fold(registration.keys, SERVICE.consumers, CODEC)(connection, [fact])  # `views` and `inbox` may have parked it.
    assert await accounts.check("lin.xiaoxi", PASSWORD) is None
    assert await accounts.open_session(who, "password") is None
    assert await accounts.open_session(who, "provider") is None
    assert await accounts.session(session) is None
    assert await accounts.use_link(link) is None
    assert await accounts.new_link(who) is None
    assert not await accounts.set_password(who, "lin.xiaoxi", PASSWORD, keep=session)
    assert await accounts.check("another", PASSWORD) == other
    owner = await connect(registration.dsn, "owner")
    for (table,) in await owner.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'signin'"):
        text = str(await owner.fetch(f'SELECT to_jsonb(row) FROM signin."{table}" AS row'))
        assert "lin.xiaoxi" not in text
        assert str(who) not in text
    await owner.close()


async def waits_for_a_lock(registration: Registration) -> bool:
    waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    owner = await connect(registration.dsn, "owner")  # To anybody else PostgreSQL does not say what a session waits for.
    found = bool(await owner.fetchval(waiting))
    await owner.close()
    return found


@pytest.mark.parametrize("begun", ["a password is being set", "a password is being checked", "a link is being used"])
async def test_who_signs_in_in_the_moment_of_the_erasure_is_met_by_it(registration: Registration, begun: str) -> None:
    who = uuid4()
    await signing_in(registration, who, "lin.xiaoxi")
    owner = await connect(registration.dsn, "owner")
    statement, *said = {
        "a password is being set": ("SELECT digest FROM signin.session WHERE person_id = $1 ORDER BY digest FOR UPDATE", who),
        "a password is being checked": ("SELECT FROM signin.account WHERE person_id = $1 FOR SHARE", who),
        "a link is being used": ("DELETE FROM signin.link WHERE person_id = $1", who),
    }[begun]
    opened = "INSERT INTO signin.session (digest, person_id, way, expires_at) VALUES ('k', $1, 'link', clock_timestamp() + interval '1 h')"
    renamed = "UPDATE signin.account SET login = 'xiaoxi.lin' WHERE person_id = $1"

    async def forget() -> None:
        async with registration.pool.acquire() as connection, connection.transaction():
            for each in FORGET:
                await connection.execute(each, who)

    async with registration.pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute(statement, *said)
            forgetting = asyncio.create_task(forget())
            await until(lambda: waits_for_a_lock(registration))
            await connection.execute(renamed if begun == "a password is being set" else opened, who)
        await forgetting
    for table in ("account", "session", "link"):
        assert not await owner.fetch(f"SELECT FROM signin.{table} WHERE person_id = $1", who), table
    await owner.close()


async def destroy_and_forget(registration: Registration, who: UUID, at: asyncio.Event, until_said: asyncio.Event) -> None:
    """The erasure as `withdrawals` does it, in one transaction; it says when the key is destroyed, and then waits to be told to go on."""
    async with registration.pool.acquire() as connection, connection.transaction():
        await registration.keys.destroy(who, connection)
        at.set()
        await until_said.wait()
        for each in FORGET:
            await connection.execute(each, who)


@pytest.mark.parametrize("way", ["the provider", "a link", "a new link"])
async def test_who_comes_in_the_moment_of_the_erasure_waits_for_it_and_is_not_let_in(registration: Registration, way: str) -> None:
    await adopt(registration)
    (who,) = await people(registration, 1)
    accounts = Accounts(registration.pool)
    link = await accounts.new_link(who)
    assert link is not None
    destroyed, go_on = asyncio.Event(), asyncio.Event()
    erasing = asyncio.create_task(destroy_and_forget(registration, who, destroyed, go_on))
    await destroyed.wait()
    comes: Mapping[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "the provider": lambda: accounts.open_session(who, "provider"),
        "a link": lambda: accounts.use_link(link),
        "a new link": lambda: accounts.new_link(who),
    }
    coming = asyncio.create_task(comes[way]())
    await until(lambda: waits_for_a_lock(registration))
    go_on.set()
    await erasing
    assert await coming is None
    for table in ("session", "link"):
        assert not await registration.pool.fetch(f"SELECT FROM signin.{table} WHERE person_id = $1", who), table


async def test_who_has_just_been_let_in_is_waited_for_by_the_erasure_and_their_session_ends(registration: Registration) -> None:
    await adopt(registration)
    (who,) = await people(registration, 1)
    destroyed, go_on = asyncio.Event(), asyncio.Event()
    go_on.set()
    opened = (
        "INSERT INTO signin.session (digest, person_id, way, expires_at) VALUES ('k', $1, 'provider', clock_timestamp() + interval '1 h')"
    )
    async with registration.pool.acquire() as connection, connection.transaction():
        assert await is_there(who, connection)
        erasing = asyncio.create_task(destroy_and_forget(registration, who, destroyed, go_on))
        await until(lambda: waits_for_a_lock(registration))
        await connection.execute(opened, who)
    await erasing
    assert not await registration.pool.fetch("SELECT FROM signin.session WHERE person_id = $1", who)


async def test_who_was_erased_holds_no_role_any_more_and_is_given_none(registration: Registration) -> None:
    await adopt(registration)
    who, other = await people(registration, 2)
    kiosk, leader = ({"role": role, "unit_code": UNIT} for role in ("kiosk", "activity_leader"))
    for person, role in ((who, kiosk), (who, leader), (other, kiosk)):
        assert code_of(await registration.ask("grant_role", body(**role), BUREAU, person_id=person)) is None
    await registration.ask("withdraw_role", body(**leader, reason="调岗"), BUREAU, person_id=who)
    await registration.catch_up()
    await erase(registration, who)
    assert code_of(await registration.ask("grant_role", body(**leader), BUREAU, person_id=who)) is None  # Not heard of yet.
    await registration.catch_up()
    assert code_of(await registration.ask("grant_role", body(**leader), BUREAU, person_id=who)) == "person_erased"
    said = [each.event for each in await registration.facts_from_the_start()]
    assert [each.role for each in said if isinstance(each, RoleWithdrawn) and each.person_id == who].count("kiosk") == 1
    held = {(row["person_id"], row["role"]): row["is_held"] for row in await registration.rows(programmes.ROLES, AUDITOR)}
    assert held == {(who, "kiosk"): False, (who, "activity_leader"): False, (other, "kiosk"): True}


async def test_an_erasure_empties_the_read_tables_also_while_the_person_s_key_is_parked_there(registration: Registration) -> None:
    who = await play_canaries(registration)
    assert "skill" in canaries_in(await tables(registration))
    erased = Fact((await registration.facts_from_the_start())[-1].record, PersonalDataErased(volunteer_id=who))
    async with registration.pool.acquire() as connection, connection.transaction():
        await withdrawal_fold(registration.keys, SERVICE.consumers, CODEC)(
            connection, [erased]
        )  # `views` has parked the fact, and does nothing.
    assert canaries_in(await tables(registration)) == set()


async def test_live_and_replayed_agree_on_a_clash_that_was_overridden_in_the_moment_of_an_erasure(registration: Registration) -> None:
    who = await play_canaries(registration)
    facts = await registration.facts_from_the_start()
    overridden = [each for each in facts if isinstance(each.event, ClashOverridden)]
    erased = Fact(facts[0].record, PersonalDataErased(volunteer_id=who))
    async with registration.pool.acquire() as connection:
        await connection.execute("DELETE FROM clashes_overridden")
        await activities.fold(connection, [erased])
        await activities.fold(connection, overridden)
        rows = await connection.fetch("SELECT volunteer_id, reason FROM clashes_overridden")
    assert [tuple(row) for row in rows] == [(who, None)]


async def test_a_role_of_who_was_erased_is_withdrawn_without_a_word(registration: Registration) -> None:
    who = await play_canaries(registration)
    await erase(registration, who)
    await registration.catch_up()
    role = {"role": "kiosk", "unit_code": UNIT}
    answer = await registration.ask("withdraw_role", body(**role, reason="设备遗失"), BUREAU, person_id=who)
    assert (answer.outcome, answer.count) == ("accepted", 1)


async def test_who_reads_a_list_with_personal_columns_is_written_down_with_whom_they_saw(registration: Registration) -> None:
    await adopt(registration)
    seen = await people(registration, 2)
    await registration.rows(volunteers.QUERY, UNIT_ADMIN)
    await registration.rows(volunteer_records.QUERY, UNIT_ADMIN)
    (noted,) = await registration.rows(READS, AUDITOR)
    assert (noted["actor"], noted["acting_as"], noted["what"]) == (UNIT_ADMIN.person_id, "unit_admin", "volunteers")
    assert set(noted["subjects"].split()) == set(map(str, seen))
    assert noted["fields"] == "masked_name skills"
    owner = await connect(registration.dsn, "tests")
    assert await check(owner) == Chain(1)
    await owner.close()


async def test_staff_are_shown_the_skills_of_their_volunteers(registration: Registration) -> None:
    who = await play_canaries(registration)
    (row,) = await registration.rows(volunteers.QUERY, UNIT_ADMIN)
    assert (row["volunteer_id"], row["skills"]) == (who, f"{CANARIES['skill']}\n急救")
    assert {query.name for query in QUERIES if any(column.name == "skills" for column in query.columns)} == {"volunteers"}
    assert not volunteers.QUERY.public


async def test_a_freed_seat_is_offered_and_lapses_at_the_end_of_the_next_working_day(registration: Registration) -> None:
    await adopt(registration)
    a, b, c = await people(registration, 3)
    registration.now = datetime.fromisoformat("2017-03-31T10:00:00+08:00")  # A Friday before a Saturday that is worked.
    activity_id = await publish(registration, registration.now + timedelta(days=20))
    for who in (a, b, c):
        await enroll(registration, activity_id, who)
        registration.now += timedelta(minutes=1)
    withdrawn = await registration.ask("withdraw_enrollment", b"{}", volunteer(a), activity_id=activity_id, volunteer_id=a)
    assert withdrawn.count == 2
    assert await standing_of(registration, activity_id) == {a: "withdrawn", b: "offered", c: "waiting"}

    registration.now = datetime.fromisoformat("2017-04-01T23:59:59+08:00")
    await registration.fire_due()
    assert (await standing_of(registration, activity_id))[b] == "offered"
    registration.now = datetime.fromisoformat("2017-04-02T00:00:00+08:00")
    late = await registration.ask("accept_offer", b"{}", volunteer(b), activity_id=activity_id, volunteer_id=b)
    assert code_of(late) == "offer_expired"
    await registration.fire_due()
    assert await standing_of(registration, activity_id) == {a: "withdrawn", b: "expired", c: "offered"}
    accepted = await registration.ask("accept_offer", b"{}", volunteer(c), activity_id=activity_id, volunteer_id=c)
    assert code_of(accepted) is None
    assert (await standing_of(registration, activity_id))[c] == "seated"
    assert await registration.pool.fetchval("SELECT count(*) FROM consumer.deadline") == 0


async def test_overlapping_service_is_refused_unless_overridden(registration: Registration) -> None:
    await adopt(registration)
    (who,) = await people(registration, 1)
    start = registration.now + timedelta(days=5)
    first, second = await publish(registration, start), await publish(registration, start + timedelta(hours=1))
    assert code_of(await enroll(registration, first, who)) is None
    await registration.catch_up()
    assert code_of(await enroll(registration, second, who)) == "time_clash"
    said = body(volunteer_id=str(who), position="guide", override_reason="只去半程")
    assert (await registration.ask("enroll", said, UNIT_ADMIN, activity_id=second)).count == 2
    await registration.catch_up()
    assert await registration.pool.fetchval("SELECT clashes_with FROM api.clashes_overridden") == first


async def test_who_leaves_gives_back_every_seat(registration: Registration) -> None:
    await adopt(registration)
    a, b = await people(registration, 2)
    activity_id = await publish(registration, registration.now + timedelta(days=5))
    await enroll(registration, activity_id, a)
    await enroll(registration, activity_id, b)
    await registration.ask("leave_programme", b"{}", volunteer(a), volunteer_id=a)
    assert await standing_of(registration, activity_id) == {a: "withdrawn", b: "offered"}
    assert code_of(await enroll(registration, activity_id, a)) == "volunteer_left"


async def test_a_seat_that_was_decided_before_the_leaving_was_heard_of_is_given_back_too(registration: Registration) -> None:
    await adopt(registration)
    (who,) = await people(registration, 1)
    activity_id = await publish(registration, registration.now + timedelta(days=5))
    await registration.ask("leave_programme", b"{}", volunteer(who), volunteer_id=who)
    assert code_of(await enroll(registration, activity_id, who)) is None
    assert await standing_of(registration, activity_id) == {who: "withdrawn"}


async def test_who_no_longer_agrees_to_be_registered_gives_back_seats_offers_and_places(registration: Registration) -> None:
    await adopt(registration)
    a, b, c = await people(registration, 3)
    seat, offer, place = [await publish(registration, registration.now + timedelta(days=day)) for day in (5, 6, 7)]
    await enroll(registration, seat, a)
    for activity_id in (offer, place):
        for who in (c, a, b):
            await enroll(registration, activity_id, who)
    await registration.ask("withdraw_enrollment", b"{}", volunteer(c), activity_id=offer, volunteer_id=c)
    assert (await standing_of(registration, offer))[a] == "offered"
    await registration.ask("withdraw_consent", body(consent="be_named"), volunteer(a), volunteer_id=a)
    assert (await standing_of(registration, seat))[a] == "seated"
    await registration.ask("withdraw_consent", body(consent="register"), volunteer(a), volunteer_id=a)
    assert await standing_of(registration, seat) == {a: "withdrawn"}
    assert await standing_of(registration, offer) == {c: "withdrawn", a: "withdrawn", b: "offered"}
    assert await standing_of(registration, place) == {c: "seated", a: "withdrawn", b: "waiting"}
    facts = await registration.facts_from_the_start()
    said = [each.event.reason for each in facts if isinstance(each.event, EnrollmentWithdrawn) and each.event.volunteer_id == a]
    assert said == ["consent_withdrawn"] * 3


async def block(registration: Registration, key: UUID, stage: str = "applied") -> None:
    sql = "INSERT INTO consumer.blocked (consumer, log, stage, key, reason) VALUES ('inbox', 'registration', $2, $1, 'test')"
    await registration.pool.execute(sql, str(key), stage)


async def test_a_reaction_to_who_left_waits_while_what_is_known_of_them_is_parked(registration: Registration) -> None:
    await adopt(registration)
    (who,) = await people(registration, 1)
    activity_id = await publish(registration, registration.now + timedelta(days=5))
    await enroll(registration, activity_id, who)
    await registration.catch_up()
    await registration.ask("leave_programme", b"{}", volunteer(who), volunteer_id=who)
    await block(registration, who)
    for lack_is_fact in (False, True):
        left = next(each for each in await registration.facts_from_the_start() if isinstance(each.event, VolunteerDeregistered))
        with pytest.raises(NotYetError) as caught:
            await release_seats(left, registration.lookups, lack_is_fact)
        assert (caught.value.source, caught.value.key) == ("registration", str(who))


@pytest.mark.parametrize("about", ["the person", "somebody else"])
async def test_whether_times_overlap_is_not_known_while_a_seat_of_the_person_is_parked(registration: Registration, about: str) -> None:
    await adopt(registration)
    who, other = await people(registration, 2)
    start = registration.now + timedelta(days=5)
    first, second = await publish(registration, start, 9), await publish(registration, start + timedelta(hours=1), 9)
    await enroll(registration, first, who if about == "the person" else other)
    record = (await registration.facts_from_the_start())[-1].record
    await block(registration, first)
    await registration.pool.execute(
        """
        INSERT INTO consumer.parked (consumer, log, position, key, type, headers, payload, error_class, stage)
        VALUES ('inbox', 'registration', $1, $2, $3, '', $4, 'test', 'applied')
        """,
        record.position, str(first), record.type, bytes(record.payload),
    )  # fmt: skip
    assert code_of(await enroll(registration, second, who)) == ("record_parked" if about == "the person" else None)
    withdrawn = await registration.ask("withdraw_enrollment", b"{}", volunteer(who), activity_id=first, volunteer_id=who)
    assert code_of(withdrawn) == (None if about == "the person" else "not_enrolled")


@pytest.mark.parametrize("reason", ["left_programme", "consent_withdrawn"])
async def test_why_the_service_gives_a_seat_back_is_nothing_that_a_caller_may_say(registration: Registration, reason: str) -> None:
    with pytest.raises(ProblemError) as caught:
        await registration.ask("withdraw_enrollment", body(reason=reason), BUREAU, activity_id=uuid4(), volunteer_id=uuid4())
    assert [each["pointer"] for each in caught.value.members["errors"]] == ["/reason"]


async def test_without_consent_or_behind_a_parked_record_nobody_enrols(registration: Registration) -> None:
    await adopt(registration)
    (who,) = await people(registration, 1)
    activity_id = await publish(registration, registration.now + timedelta(days=5))
    await registration.ask("withdraw_consent", body(consent="register"), volunteer(who), volunteer_id=who)
    await registration.catch_up()
    assert code_of(await enroll(registration, activity_id, who)) == "no_consent"
    await registration.pool.execute(
        "INSERT INTO consumer.blocked (consumer, log, stage, key, reason) VALUES ('inbox', 'registration', 'applied', $1, 'test')", str(who)
    )
    assert code_of(await enroll(registration, activity_id, who)) == "record_parked"


async def test_seats_are_never_oversold_by_processes_that_race(registration: Registration) -> None:
    await adopt(registration)
    everybody = await people(registration, 12)
    activity_id = await publish(registration, registration.now + timedelta(days=5), capacity=3, wait_list_max=4)
    processes = [registration.another_process() for _ in range(3)]
    asked = [
        registration.ask(
            "enroll", body(volunteer_id=str(who), position="guide"), volunteer(who), commands=processes[n % 3], activity_id=activity_id
        )
        for n, who in enumerate(everybody)
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [code_of(each) for each in answers if isinstance(each, Answer) and each.refusal].count("activity_full") >= 1
    await registration.catch_up()
    (row,) = await registration.rows(activities.QUERY)
    assert (row["capacity"], row["taken"], row["offered"]) == (3, 3, 0)
    assert row["waiting"] <= 4


async def test_activities_come_newest_first_with_the_names_of_unit_and_carrier(registration: Registration) -> None:
    await adopt(registration)
    days = [await publish(registration, registration.now + timedelta(days=day)) for day in (5, 9, 9, 7)]
    whole = await registration.rows(activities.QUERY, limit=1)
    assert [row["activity_id"] for row in whole] == [*sorted(days[1:3], reverse=True), days[3], days[0]]
    assert (whole[0]["unit_name"], whole[0]["carrier_name_zh"]) == ("节约用水办公室", "保护环境、关爱自然")
    assert whole[0]["carrier_name_en"] == "Protecting the environment, caring for nature"


async def test_the_codes_of_every_list_have_words(registration: Registration) -> None:
    async with registration.pool.acquire() as connection:
        standing = await allowed(connection, "volunteers_standing")
        assert words_of(QUERIES) == {
            "activities.state": await allowed(connection, "activities_state"),
            "volunteer_overview.standing": standing,
            "volunteers.standing": standing,
            "enrollments.standing": await allowed(connection, "enrollments_standing"),
            "programme_words.kind": {"carrier", "target_group", "occasion"},
            "units.kind": set(get_args(UnitKind)),
            "programme_proposals.state": await allowed(connection, "programme_proposals_state"),
            "proposed_units.kind": set(get_args(UnitKind)),
            "devices.reason": set(get_args(DeviceLoss)),
            "roles.role": set(Role) - {Role.PUBLIC},
            "erasures.state": await allowed(connection, "erasures_state"),
        }


async def test_plan_stands_beside_held_for_each_unit_and_month(registration: Registration) -> None:
    await adopt(registration)
    held = await publish(registration, datetime.fromisoformat("2017-04-01T00:30:00+08:00"))  # Still March in UTC.
    cancelled = await publish(registration, datetime.fromisoformat("2017-04-20T09:00:00+08:00"))
    registration.now = datetime.fromisoformat("2017-04-02T09:00:00+08:00")
    await registration.ask("hold_activity", body(result="清理两公里"), UNIT_ADMIN, activity_id=held)
    await registration.ask("cancel_activity", body(reason="大雨"), UNIT_ADMIN, activity_id=cancelled)
    await registration.catch_up()
    april_only: Any = {"from": date(2017, 4, 1), "to": date(2017, 4, 30)}
    (april,) = await registration.rows(activities.PLAN, unit=UNIT, **april_only)
    assert (april["planned"], april["published"], april["held"], april["cancelled"]) == (2, 2, 1, 1)
    whole = await registration.rows(activities.PLAN, limit=5)
    assert len(whole) == 12 * 7
    months = [row["year_month"] for row in whole[::7]]
    assert months == [f"2017-{month:02}" for month in (4, 3, 2, 1, 12, 11, 10, 9, 8, 7, 6, 5)]  # What nobody has begun on comes last.


def programme_of(year: int, planned: int) -> str:
    """The file of another year, in which every unit plans so much."""
    text = SAMPLE.replace("year: 2017", f"year: {year}").replace("_on: 2017", f"_on: {year}")
    return re.sub(r"planned_activities_per_month: \d+", f"planned_activities_per_month: {planned}", text)


@pytest.mark.parametrize("order", [(2018, 2019), (2019, 2018)], ids=["in order", "the older year later"])
async def test_each_year_is_held_against_its_own_plan(registration: Registration, order: tuple[int, int]) -> None:
    plans = {2018: 3, 2019: 5}
    for year in order:
        await adopt(registration, programme_of(year, plans[year]))
    rows = await registration.rows(activities.PLAN)
    assert {(row["year_month"][:4], row["planned"]) for row in rows} == {("2018", 3), ("2019", 5)}
    assert len(rows) == 2 * 12 * 7
    assert {row["planned_activities_per_month"] for row in await registration.rows(programmes.UNITS)} == {5}


async def test_a_unit_that_the_years_programme_does_not_name_counts_where_it_holds_something(registration: Registration) -> None:
    await adopt(registration)
    unit = "节约用水办公室"
    without = re.sub(r"  - code: water-saving-office\n(    .*\n)+", "", programme_of(2018, 1))
    assert unit not in without
    await adopt(registration, without)
    await publish(registration, datetime.fromisoformat("2018-05-03T09:00:00+08:00"))
    whole: Any = {"from": date(2018, 1, 1), "to": date(2018, 12, 31)}
    rows = await registration.rows(activities.PLAN, unit=UNIT, **whole)
    assert [(row["year_month"], row["planned"], row["published"]) for row in rows] == [("2018-05", 0, 1)]


async def test_the_overview_joins_all_three_services(registration: Registration) -> None:
    await adopt(registration)
    who, other = await people(registration, 2)
    entry: Any = {
        "volunteer_id": who,
        "activity_id": uuid4(),
        "unit_code": UNIT,
        "hour_class": "timed",
        "served_on": date(2017, 3, 5),
        "starts_at": registration.now,
        "ends_at": registration.now + timedelta(hours=9),
        "credited_minutes": 480,
        "over_cap_minutes": 60,
        "policy_version": "2017",
        "recorder_id": uuid4(),
        "approver_id": uuid4(),
        "postings": (
            Posting(account="served", minutes=-540),
            Posting(account="timed", minutes=480),
            Posting(account="over_cap", minutes=60),
        ),
    }
    star: Any = {
        "volunteer_id": who,
        "unit_code": UNIT,
        "confirmed_minutes": 480,
        "threshold_minutes": 60,
        "policy_version": "2017",
        "hours_position": 1,
    }
    stars = [StarGranted(stars=1, **star), StarGranted(stars=2, **star), StarWithdrawn(stars=2, reason="hours_corrected", **star)]
    by = {"volunteer_id": who, "unit_code": UNIT, "proposal_id": uuid4(), "approved_by": uuid4()}
    revoked = StarRevoked.model_validate(by | {"stars": 1, "reason_code": "false_record"})
    record = (await registration.store.read_page(0, 1))[0]
    async with registration.pool.acquire() as connection:
        confirmed = [Fact(record, ServiceTimeConfirmed(entry_id=uuid4(), **entry)) for _ in range(2)]
        await volunteer_records.fold_hours(connection, confirmed)
        await volunteer_records.fold_hours(connection, confirmed[:1])
        await volunteer_records.fold_stars(connection, [Fact(record, event) for event in stars])
    rows = {row["volunteer_id"]: row for row in await registration.rows(volunteer_records.QUERY, limit=1)}
    assert (rows[who]["timed_minutes"], rows[who]["over_cap_minutes"], rows[who]["stars"]) == (1440, 180, 1)
    assert (rows[other]["timed_minutes"], rows[other]["stars"], rows[other]["standing"]) == (0, 0, "registered")
    assert [row["volunteer_id"] for row in await registration.rows(volunteer_records.QUERY, stars=1)] == [who]
    async with registration.pool.acquire() as connection:
        await volunteer_records.fold_stars(connection, [Fact(record, revoked)])
    assert await registration.rows(volunteer_records.QUERY, stars=1) == []
    await register(registration, uuid4(), 7, unit_code="reservoir-station")
    await registration.catch_up()
    named = [(row["unit_name"], row["number"]) for row in await registration.rows(volunteer_records.QUERY, limit=1)]
    assert [name for name, _ in named] == ["水库管理站", "节约用水办公室", "节约用水办公室"]
    assert named[1][1] < named[2][1]


async def test_a_unit_admin_sees_the_volunteers_of_the_own_unit(registration: Registration) -> None:
    await adopt(registration)
    await people(registration, 1)
    await register(registration, uuid4(), 7, unit_code="reservoir-station")
    await registration.catch_up()
    assert len(await registration.rows(volunteers.QUERY, AUDITOR)) == 2
    assert [row["unit_code"] for row in await registration.rows(volunteers.QUERY, UNIT_ADMIN)] == [UNIT]


@pytest.mark.parametrize("role", [Role.UNIT_ADMIN, Role.ACTIVITY_LEADER])
async def test_a_unit_sees_who_enrols_in_its_activities_and_where_its_volunteers_enrol(registration: Registration, role: Role) -> None:
    await adopt(registration)
    (own,) = await people(registration, 1)
    other = uuid4()
    await register(registration, other, 7, unit_code="reservoir-station")
    here = await publish(registration, registration.now + timedelta(days=5), capacity=9)
    said: Any = {"asker": BUREAU, "unit_code": "reservoir-station"}
    there = await publish(registration, registration.now + timedelta(days=6), capacity=9, **said)
    for activity_id in (here, there):
        for who in (own, other):
            assert code_of(await enroll(registration, activity_id, who)) is None
    await registration.catch_up()

    async def seen(unit: str) -> set[tuple[UUID, UUID]]:
        found = await registration.rows(activities.ENROLLMENTS, Actor(uuid4(), role, unit))
        return {(row["activity_id"], row["volunteer_id"]) for row in found}

    assert await seen(UNIT) == {(here, own), (here, other), (there, own)}
    assert await seen("reservoir-station") == {(there, own), (there, other), (here, other)}
    assert await seen("general-office") == set()
    assert len(await registration.rows(activities.ENROLLMENTS, AUDITOR)) == 4


async def test_roles_are_recorded_facts(registration: Registration) -> None:
    await adopt(registration)
    person_id = uuid4()
    role = {"role": "unit_admin", "unit_code": UNIT}
    assert code_of(await registration.ask("grant_role", body(**role), BUREAU, person_id=person_id)) is None
    unknown = await registration.ask("grant_role", body(role="kiosk", unit_code="nowhere"), BUREAU, person_id=person_id)
    assert code_of(unknown) == "unit_unknown"
    await registration.ask("withdraw_role", body(**role, reason="岗位调整"), BUREAU, person_id=person_id)
    await registration.catch_up()
    (row,) = await registration.rows(programmes.ROLES, AUDITOR)
    assert (row["person_id"], row["role"], row["is_held"]) == (person_id, "unit_admin", False)


@pytest.mark.parametrize("instant", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "2017-03-05T09:00:00", "2017-03-05"])
async def test_an_instant_without_a_zone_or_beyond_the_calendar_is_a_wrong_value(registration: Registration, instant: str) -> None:
    with pytest.raises(ProblemError) as caught:
        await publish(registration, registration.now, ends_at=instant)
    assert [each["pointer"] for each in caught.value.members["errors"]] == ["/ends_at"]


async def test_every_column_of_every_view_has_a_comment_in_both_languages(registration: Registration) -> None:
    connection = await connect(registration.dsn, "tests")
    rows = await connection.fetch(
        """
        SELECT relname, attname, col_description(pg_class.oid, attnum) AS words
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = 'api' AND attnum > 0 AND relkind = 'v'
        """
    )
    await connection.close()
    assert len(rows) > 60
    assert [f"{row['relname']}.{row['attname']}" for row in rows if " / " not in (row["words"] or "")] == []
