"""The whole of hours but HTTP and Kafka: commands through `submit`, what is learned from the logs, what an admin sees."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import asyncpg
import pytest

from services.hours import inbox
from services.hours.application import CorrectionReason, ReversalReason
from services.hours.domain.account import account_id, entry_id
from services.hours.domain.attendance import Activity, attendance_id
from services.hours.projections import QUERIES, activities, attendances, entries, ledger, policies, units
from shared.consumer.inbox import deadline_fold
from shared.consumer.values import Fact
from shared.contracts.hours import Posting, ServiceTimeConfirmed
from shared.contracts.registration import ActivityCancelled, ActivityHeld, EnrollmentWithdrawn, OfferAccepted, UnitRegistered
from shared.errors import InvariantError
from shared.eventstore.values import Answer
from shared.postgres import connect
from tests.integration.codes import allowed, words_of
from tests.integration.erasing import destroy_key
from tests.integration.hours.conftest import AS_ADMIN, AS_BUREAU, AS_LEADER, AT_KIOSK, Hours, enrolled, published, registered
from tests.unit.hours.scenes import ACTIVITY, DAY, OTHER_ACTIVITY, SLOT, UNIT, VOLUNTEER, at

SAMPLE = (Path(__file__).parents[3] / "deploy/sample/hours-policy.yaml").read_text(encoding="utf-8")
PATH = {"activity_id": ACTIVITY, "volunteer_id": VOLUNTEER}
OTHER_PATH = {"activity_id": OTHER_ACTIVITY, "volunteer_id": VOLUNTEER}
AFTERNOON = Activity(UNIT, at(13), at(19), "published")


def code_of(answer: Answer) -> str | None:
    return answer.refusal.code if answer.refusal else None


def entry(activity_id: UUID = ACTIVITY, pair: int = 1, day: date = DAY, volunteer_id: UUID = VOLUNTEER) -> UUID:
    return entry_id(attendance_id(activity_id, volunteer_id), pair, day)


async def begin(hours: Hours) -> None:
    assert code_of(await hours.ask("adopt_hours_policy", AS_BUREAU, body={"file": SAMPLE})) is None
    await hours.tell(
        registered(VOLUNTEER),
        published(ACTIVITY, SLOT),
        published(OTHER_ACTIVITY, AFTERNOON),
        enrolled(ACTIVITY, VOLUNTEER),
        enrolled(OTHER_ACTIVITY, VOLUNTEER),
    )
    await hours.catch_up()


async def serve(hours: Hours, path: dict[str, UUID], came: datetime, left: datetime) -> None:
    hours.now = came
    assert code_of(await hours.ask("check_in", AT_KIOSK, path)) is None
    hours.now = left
    assert code_of(await hours.ask("check_out", AS_LEADER, path)) is None
    await hours.catch_up()


async def decide(hours: Hours, name: str, which: UUID, day: date = DAY, **said: str) -> str | None:
    path = {"volunteer_id": VOLUNTEER, "entry_id": which}
    asked = await hours.ask(f"{name}_service_time", AS_ADMIN, path, body={"served_on": day.isoformat(), **said})
    await hours.catch_up()
    return code_of(asked)


async def imbalance(hours: Hours) -> int:
    async with hours.pool.acquire() as connection:
        return await ledger.imbalance(connection)


async def test_a_day_is_served_confirmed_corrected_and_reversed(hours: Hours) -> None:
    await begin(hours)
    await serve(hours, PATH, at(8, 45), at(12, 0, 30))
    await serve(hours, OTHER_PATH, at(13), at(19))
    waiting = await hours.rows(entries.CONFIRM_QUEUE, unit=UNIT)
    assert [(row["minutes"], row["check_out_missed"]) for row in waiting] == [(180, False), (360, False)]
    (pending,) = await hours.rows(ledger.BALANCES)
    assert (pending["pending_minutes"], pending["timed_minutes"], pending["account_minutes"]) == (540, 0, 0)

    assert await decide(hours, "confirm", entry()) is None
    assert await decide(hours, "confirm", entry(OTHER_ACTIVITY)) is None
    (balance,) = await hours.rows(ledger.BALANCES, year=2017)
    assert (balance["timed_minutes"], balance["over_cap_minutes"], balance["pending_minutes"]) == (480, 60, 0)

    hours.now = at(9, day=DAY + timedelta(days=1))
    change: Any = {"starts_at": at(9).isoformat(), "ends_at": at(10).isoformat(), "reason": "wrong_time", "requester_id": str(VOLUNTEER)}
    assert await decide(hours, "correct", entry(), **change) is None
    (balance,) = await hours.rows(ledger.BALANCES)
    assert (balance["timed_minutes"], balance["over_cap_minutes"]) == (420, 0)

    hours.now = at(9, day=DAY + timedelta(days=2))
    assert await decide(hours, "reverse", entry(), reason="false_record", requester_id=str(VOLUNTEER)) is None
    (balance,) = await hours.rows(ledger.BALANCES, volunteer=VOLUNTEER)
    assert (balance["timed_minutes"], balance["account_minutes"], balance["account_id"]) == (360, 360, account_id(VOLUNTEER, 2017))
    assert await hours.rows(entries.CONFIRM_QUEUE) == []

    history = await hours.rows(entries.HISTORY, limit=2)
    assert [row["change"] for row in history] == [
        "reversed", "corrected", "corrected", "confirmed", "confirmed", "proposed", "proposed",
    ]  # fmt: skip
    corrected = history[2]
    assert (corrected["old_ends_at"], corrected["old_credited_minutes"]) == (at(12, 0, 30), 180)
    assert (corrected["ends_at"], corrected["credited_minutes"], corrected["reason_code"]) == (at(10), 60, "wrong_time")
    assert [row["change"] for row in await hours.rows(entries.HISTORY, change="corrected", entry=entry())] == ["corrected"]
    assert await imbalance(hours) == 0


async def test_totals_are_told_as_of_a_past_moment_and_a_past_day(hours: Hours) -> None:
    await begin(hours)
    await serve(hours, PATH, at(9), at(12))
    hours.now = at(20)
    assert await decide(hours, "confirm", entry()) is None
    hours.now = at(9, day=DAY + timedelta(days=5))
    assert await decide(hours, "reverse", entry(), reason="false_record", requester_id=str(VOLUNTEER)) is None

    async def total(**filters: Any) -> list[int]:
        return [row["credited_minutes"] for row in await hours.rows(ledger.TOTALS, **filters)]

    assert await total() == [0]
    assert await total(as_of=at(19, 59)) == []
    assert await total(as_of=at(20)) == [180]
    assert await total(as_of_day=DAY) == [180]
    assert await total(as_of_day=DAY - timedelta(days=1)) == []
    assert await total(as_of_day=DAY + timedelta(days=5)) == [0]
    assert await total(as_of_day=DAY, unit="water-saving-office") == []
    posted = await hours.rows(ledger.QUERY, limit=1)
    assert [(row["posted_by"], row["served_minutes"], row["timed_minutes"]) for row in posted] == [
        ("reversed", 180, -180),
        ("confirmed", -180, 180),
    ]


async def test_a_day_is_counted_by_the_last_version_that_has_begun(hours: Hours) -> None:
    await begin(hours)
    second = SAMPLE.replace("2017-01-01", "2017-03-01").replace("2017-bureau", "2017-second")
    assert code_of(await hours.ask("adopt_hours_policy", AS_BUREAU, body={"file": second})) is None
    await hours.catch_up()
    days = (date(2016, 12, 31), date(2017, 1, 1), date(2017, 2, 28), date(2017, 3, 1))
    found = [await hours.lookups.policy_on(day) for day in days]
    assert [each and each.version for each in found] == [None, "2017-bureau", "2017-bureau", "2017-second"]


async def test_a_check_out_that_never_came_is_missed_at_its_deadline_and_waits_for_a_correction(hours: Hours) -> None:
    await begin(hours)
    hours.now = at(8, 30)
    await hours.ask("check_in", AT_KIOSK, PATH)
    await hours.catch_up()
    hours.now = at(13, 59)
    await hours.fire_due()
    assert [row["state"] for row in await hours.rows(attendances.QUERY)] == ["open"]
    hours.now = at(14)
    await hours.fire_due()
    (missed,) = await hours.rows(attendances.QUERY, state="missed", activity=ACTIVITY)
    assert (missed["checked_out_at"], missed["counts_from"]) == (None, at(9))
    (waiting,) = await hours.rows(entries.CONFIRM_QUEUE)
    assert (waiting["check_out_missed"], waiting["minutes"]) == (True, 0)
    assert await decide(hours, "confirm", entry()) == "nothing_to_confirm"
    change: Any = {
        "starts_at": at(9).isoformat(),
        "ends_at": at(12).isoformat(),
        "reason": "check_out_missed",
        "requester_id": str(VOLUNTEER),
    }
    assert await decide(hours, "correct", entry(), **change) is None
    (balance,) = await hours.rows(ledger.BALANCES)
    assert (balance["timed_minutes"], balance["pending_minutes"]) == (180, 0)
    assert await imbalance(hours) == 0


async def test_a_deadline_ends_with_its_check_in_also_when_deadlines_are_folded_anew(hours: Hours) -> None:
    await begin(hours)
    await serve(hours, PATH, at(9), at(12))
    hours.now = at(13)
    assert code_of(await hours.ask("check_in", AT_KIOSK, OTHER_PATH)) is None
    await hours.catch_up()
    hours.now = at(22)
    await hours.fire_due()
    due = "SELECT count(*) FROM consumer.deadline"
    assert await hours.pool.fetchval(due) == 0
    log = await hours.facts_from_the_start()
    async with hours.pool.acquire() as connection:
        for until in range(len(log)):
            await deadline_fold(inbox.deadlines)(connection, log[until : until + 1])
    assert await hours.pool.fetchval(due) == 0


async def test_a_night_over_new_year_is_two_entries_of_two_accounts(hours: Hours) -> None:
    eve, morning = date(2017, 12, 31), date(2018, 1, 1)
    await begin(hours)
    await hours.tell(published(ACTIVITY, replace(SLOT, starts_at=at(22, day=eve), ends_at=at(2, day=morning))))
    await serve(hours, PATH, at(21, 30, day=eve), at(1, 30, day=morning))
    assert await decide(hours, "confirm", entry(day=eve), eve) is None
    assert await decide(hours, "confirm", entry(day=morning), morning) is None
    balances = await hours.rows(ledger.BALANCES, limit=1)
    assert [(row["year"], row["timed_minutes"], row["account_id"]) for row in balances] == [
        (2018, 90, account_id(VOLUNTEER, 2018)),
        (2017, 120, account_id(VOLUNTEER, 2017)),
    ]


async def test_of_two_approvers_at_once_one_is_refused_the_overlap(hours: Hours) -> None:
    """Two kiosks let one person in twice; whoever confirms second finds the minute taken, whichever process they ask."""
    await begin(hours)
    await hours.tell(published(OTHER_ACTIVITY, SLOT))
    hours.now = at(9)
    for path in (PATH, OTHER_PATH):
        await hours.ask("check_in", AT_KIOSK, path)
    hours.now = at(12)
    for path in (PATH, OTHER_PATH):
        await hours.ask("check_out", AT_KIOSK, path)
    await hours.catch_up()
    processes = [hours.another_process() for _ in range(2)]
    answers = await asyncio.gather(
        *(
            hours.ask(
                "confirm_service_time",
                AS_ADMIN,
                {"volunteer_id": VOLUNTEER, "entry_id": entry(activity)},
                body={"served_on": DAY.isoformat()},
                commands=process,
            )
            for process, activity in zip(processes, (ACTIVITY, OTHER_ACTIVITY), strict=True)
        )
    )
    assert sorted(map(str, map(code_of, answers))) == ["None", "overlapping_service"]
    await hours.catch_up()
    assert [row["timed_minutes"] for row in await hours.rows(ledger.BALANCES)] == [180]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "not_enrolled",
            EnrollmentWithdrawn(activity_id=ACTIVITY, volunteer_id=VOLUNTEER, position="general", reason="volunteer_withdrew"),
        ),
        ("activity_cancelled", ActivityCancelled(activity_id=ACTIVITY, unit_code=UNIT, reason="大雨")),
        ("activity_over", ActivityHeld(activity_id=ACTIVITY, unit_code=UNIT, result="清理河道两公里")),
    ],
)
async def test_what_registration_says_next_closes_the_door(hours: Hours, code: str, told: Any) -> None:
    await begin(hours)
    await hours.tell(told)
    hours.now = at(9)
    assert code_of(await hours.ask("check_in", AT_KIOSK, PATH)) == code


async def test_a_seat_given_up_and_taken_again_in_one_batch_is_a_seat(hours: Hours) -> None:
    await begin(hours)
    gone = EnrollmentWithdrawn(activity_id=ACTIVITY, volunteer_id=VOLUNTEER, position="general", reason="volunteer_withdrew")
    await hours.tell(gone, OfferAccepted(activity_id=ACTIVITY, volunteer_id=VOLUNTEER, position="general"))
    hours.now = at(9)
    assert code_of(await hours.ask("check_in", AT_KIOSK, PATH)) is None


async def test_unknown_ids_and_a_person_who_left_are_refused(hours: Hours) -> None:
    await begin(hours)
    hours.now = at(9)
    assert code_of(await hours.ask("check_in", AT_KIOSK, {"activity_id": UUID(int=99), "volunteer_id": VOLUNTEER})) == "activity_unknown"
    assert code_of(await hours.ask("check_in", AT_KIOSK, {"activity_id": ACTIVITY, "volunteer_id": UUID(int=99)})) == "volunteer_unknown"
    assert code_of(await hours.ask("check_out", AT_KIOSK, PATH)) == "not_checked_in"
    assert await decide(hours, "confirm", UUID(int=99)) == "entry_unknown"
    await hours.pool.execute("INSERT INTO consumer.withdrawn (subject, kind, position) VALUES ($1, 'person', 100)", VOLUNTEER)
    assert code_of(await hours.ask("check_in", AT_KIOSK, PATH)) == "volunteer_unknown"


@pytest.mark.parametrize("parked", [False, True])
async def test_who_was_erased_begins_no_service_though_what_is_known_of_them_be_parked(hours: Hours, parked: bool) -> None:
    await begin(hours)
    hours.now = at(9)
    await destroy_key(hours.pool, VOLUNTEER)
    if parked:
        block = "INSERT INTO consumer.blocked (consumer, log, stage, key, reason) VALUES ('inbox', 'registration', 'applied', $1, 'test')"
        await hours.pool.execute(block, str(VOLUNTEER))
    assert code_of(await hours.ask("check_in", AT_KIOSK, PATH)) == "person_erased"


async def test_what_who_was_erased_had_begun_is_checked_out_and_counts_until_it_is_found_to_be_wrong(hours: Hours) -> None:
    await begin(hours)
    hours.now = at(9)
    assert code_of(await hours.ask("check_in", AT_KIOSK, PATH)) is None
    await destroy_key(hours.pool, VOLUNTEER)
    hours.now = at(11)
    assert code_of(await hours.ask("check_out", AT_KIOSK, PATH)) is None
    await hours.catch_up()
    assert await decide(hours, "confirm", entry()) is None
    (balance,) = await hours.rows(ledger.BALANCES, volunteer=VOLUNTEER)
    assert balance["timed_minutes"] == 120
    asked: Any = {"requester_id": str(AT_KIOSK.person_id)}  # Who is gone asks for nothing; who recorded it may.
    hours.now = at(12)
    change: Any = {"starts_at": at(9).isoformat(), "ends_at": at(10).isoformat(), "reason": "wrong_time"}
    assert await decide(hours, "correct", entry(), **change, **asked) is None
    assert await decide(hours, "reverse", entry(), reason="false_record", **asked) is None
    (balance,) = await hours.rows(ledger.BALANCES, volunteer=VOLUNTEER)
    assert balance["timed_minutes"] == 0
    assert await imbalance(hours) == 0


@pytest.mark.parametrize("key", [ACTIVITY, VOLUNTEER])
async def test_nobody_is_checked_in_on_facts_that_are_parked(hours: Hours, key: UUID) -> None:
    await begin(hours)
    hours.now = at(9)
    block = "INSERT INTO consumer.blocked (consumer, log, stage, key, reason) VALUES ('inbox', 'registration', 'applied', $1, 'test')"
    await hours.pool.execute(block, str(key))
    assert code_of(await hours.ask("check_in", AT_KIOSK, PATH)) == "registration_parked"


async def test_there_is_no_check_in_before_the_first_policy(hours: Hours) -> None:
    await hours.tell(registered(VOLUNTEER), published(ACTIVITY, SLOT), enrolled(ACTIVITY, VOLUNTEER))
    hours.now = at(9)
    assert code_of(await hours.ask("check_in", AT_KIOSK, PATH)) == "no_hours_policy"


async def test_minutes_are_counted_by_the_policy_of_the_day_served(hours: Hours) -> None:
    await begin(hours)
    newer = SAMPLE.replace("2017-bureau", "2017-spring").replace("2017-01-01", "2017-03-23").replace("480 ", "60 ")
    assert code_of(await hours.ask("adopt_hours_policy", AS_BUREAU, body={"file": newer})) is None
    edited = await hours.ask("adopt_hours_policy", AS_BUREAU, body={"file": SAMPLE.replace("480 ", "60 ")})
    assert code_of(edited) == "policy_version_exists"
    await serve(hours, PATH, at(9), at(12))
    hours.now = at(9, day=DAY + timedelta(days=3))
    assert await decide(hours, "confirm", entry()) is None
    (change, *_) = await hours.rows(entries.HISTORY)
    assert (change["policy_version"], change["credited_minutes"]) == ("2017-bureau", 180)
    assert [row["daily_cap_minutes"] for row in await hours.rows(policies.QUERY, limit=1)] == [480, 60]


async def test_a_replay_gives_the_same_rows_in_batches_of_any_size(hours: Hours, dsn: str) -> None:
    await begin(hours)
    for hour in (9, 10, 11):
        await serve(hours, PATH, at(hour), at(hour, 30))
    await serve(hours, OTHER_PATH, at(13), at(19))
    assert await decide(hours, "confirm", entry()) is None
    assert await decide(hours, "confirm", entry(OTHER_ACTIVITY)) is None
    assert await decide(hours, "reverse", entry(), reason="duplicate", requester_id=str(VOLUNTEER)) is None
    tables = ("entries", "entry_changes", "credited_intervals", "postings", "balances", "attendances", "hours_policies")
    owner = await connect(dsn, "tests", search_path="views_1")

    async def rows() -> list[Any]:
        return [await owner.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables]

    live, log = await rows(), await hours.facts_from_the_start()
    for size in (1, 3, len(log)):
        await owner.execute(f"TRUNCATE {', '.join(tables)}")
        for begin_at in range(0, len(log), size):
            await hours.fold_views(owner, log[begin_at : begin_at + size])
        assert await rows() == live
    await owner.close()


async def confirmed_twice(hours: Hours) -> list[Fact]:
    """A log that the account's decision excludes: both of two overlapping entries count."""
    await begin(hours)
    await hours.tell(published(OTHER_ACTIVITY, SLOT))
    for path in (PATH, OTHER_PATH):
        await serve(hours, path, at(9), at(12))
    assert await decide(hours, "confirm", entry()) is None
    fact = (await hours.facts_from_the_start())[-1]
    assert isinstance(fact.event, ServiceTimeConfirmed)
    second = fact.event.model_copy(update={"entry_id": entry(OTHER_ACTIVITY), "activity_id": OTHER_ACTIVITY})
    return [Fact(replace(fact.record, position=fact.record.position + 1), second)]


async def test_the_read_model_refuses_a_minute_that_counts_twice(hours: Hours) -> None:
    facts = await confirmed_twice(hours)
    async with hours.pool.acquire() as connection:
        with pytest.raises(asyncpg.ExclusionViolationError, match="no_minute_counts_twice"):
            async with connection.transaction():
                await entries.fold(connection, facts)


async def test_the_read_model_refuses_postings_that_do_not_balance(hours: Hours) -> None:
    (fact,) = await confirmed_twice(hours)
    broken = fact.event.model_copy(update={"postings": (Posting(account="timed", minutes=180),)})
    async with hours.pool.acquire() as connection:
        with pytest.raises(asyncpg.CheckViolationError, match="postings_sum_to_zero"):
            async with connection.transaction():
                await ledger.fold(connection, [replace(fact, event=broken)])


async def test_an_entry_that_nobody_proposed_is_a_broken_invariant(hours: Hours) -> None:
    (fact,) = await confirmed_twice(hours)
    stray = fact.event.model_copy(update={"entry_id": UUID(int=1)})
    async with hours.pool.acquire() as connection:
        with pytest.raises(InvariantError):
            await entries.fold(connection, [replace(fact, event=stray)])


async def test_an_imbalance_shows(hours: Hours, dsn: str) -> None:
    await begin(hours)
    await serve(hours, PATH, at(9), at(12))
    assert await decide(hours, "confirm", entry()) is None
    assert await imbalance(hours) == 0
    owner = await connect(dsn, "tests", search_path="views_1")
    await owner.execute("UPDATE balances SET timed_minutes = timed_minutes - 1")
    await owner.close()
    assert await imbalance(hours) == 1


async def test_a_list_shows_what_a_unit_is_called_and_its_code_until_that_is_known(hours: Hours) -> None:
    await begin(hours)
    await serve(hours, PATH, at(9), at(12))
    lists = (ledger.BALANCES, entries.CONFIRM_QUEUE, entries.HISTORY, attendances.QUERY)

    async def names() -> set[tuple[str, str]]:
        return {(row["unit_code"], row["unit_name"]) for query in lists for row in await hours.rows(query, unit=UNIT)}

    assert await names() == {(UNIT, UNIT)}
    record = (await hours.facts_from_the_start())[0].record
    said = {"unit_id": UUID(int=1), "year": 2017, "code": UNIT, "kind": "office", "parent_code": None, "aliases": (), "valid_from": DAY}
    for name in ("节水科", "节约用水办公室"):
        unit = UnitRegistered.model_validate({**said, "name": name, "planned_activities_per_month": 2})
        async with hours.pool.acquire() as connection:
            await units.fold(connection, [Fact(record, unit)])
    assert await names() == {(UNIT, "节约用水办公室")}


async def test_a_list_shows_what_an_activity_is_called_and_its_id_until_that_is_known(hours: Hours) -> None:
    await begin(hours)
    await serve(hours, PATH, at(9), at(12))

    async def titles() -> set[str]:
        lists = (entries.CONFIRM_QUEUE, entries.HISTORY, attendances.QUERY)
        return {row["activity_title"] for query in lists for row in await hours.rows(query)}

    assert await titles() == {f"…{str(ACTIVITY)[-8:]}"}
    record = (await hours.facts_from_the_start())[0].record
    async with hours.pool.acquire() as connection:
        await activities.fold(connection, [Fact(record, published(ACTIVITY, SLOT))])
    assert await titles() == {"河道清洁"}


async def test_the_codes_of_every_list_have_words(hours: Hours) -> None:
    async with hours.pool.acquire() as connection:
        assert words_of(QUERIES) == {
            "history.change": await allowed(connection, "entry_changes_change"),
            "history.reason_code": {*get_args(CorrectionReason), *get_args(ReversalReason)},
            "ledger.posted_by": await allowed(connection, "postings_posted_by"),
            "attendances.state": await allowed(connection, "attendances_state"),
        }


async def test_every_column_of_every_view_says_what_it_is_in_two_languages(hours: Hours) -> None:
    silent = await hours.pool.fetch("""
        SELECT class.relname, attribute.attname
        FROM pg_class AS class JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attnum >= 0
        WHERE class.relnamespace = 'api'::regnamespace AND class.relkind = 'v'
          AND coalesce(col_description(class.oid, attribute.attnum), '') NOT LIKE '% / %'
    """)
    assert [tuple(row) for row in silent] == []


async def test_a_clock_of_utc_sees_the_civil_day(hours: Hours) -> None:
    """Half past one in the night of the 23rd in Shanghai is the 22nd in UTC."""
    night = replace(SLOT, starts_at=datetime(2017, 3, 22, 17, 30, tzinfo=UTC), ends_at=datetime(2017, 3, 22, 19, tzinfo=UTC))
    await begin(hours)
    await hours.tell(published(ACTIVITY, night))
    await serve(hours, PATH, night.starts_at, night.ends_at)
    assert await decide(hours, "confirm", entry(), DAY) == "entry_unknown"
    assert await decide(hours, "confirm", entry(day=date(2017, 3, 23)), date(2017, 3, 23)) is None
