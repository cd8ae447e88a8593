"""What is done in the benches: service time proposed and confirmed, by a seed, so that every run does the same."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from uuid import UUID

from services.hours.application import CONFIRM_SERVICE_TIME, PROPOSE_SERVICE_TIME, ConfirmServiceTime, LookUps, ProposeServiceTime
from services.hours.domain.account import account_id
from services.hours.inbox import LOOK_UPS
from shared.codec import Codec
from shared.consumer.values import Fact
from shared.contracts.event import Event
from shared.contracts.hours import HoursPolicyAdopted, Posting, ServiceTimeConfirmed, ServiceTimeProposed
from shared.envelope import Stream
from shared.eventstore.submit import Commands
from shared.eventstore.values import Answer, AppendRequest, NewEvent
from shared.ids import event_id
from shared.permissions import Actor, Role
from shared.postgres import Connection
from tests.bench.place import Log

SEED: Final = 2017
MINUTES: Final = 90
UNIT: Final = "water-saving-office"
TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOW: Final = datetime(2017, 12, 31, 1, tzinfo=UTC)
FINGERPRINT: Final = bytes(32)
POLICY: Final = HoursPolicyAdopted(
    version="bench",
    effective_from=date(2000, 1, 1),
    daily_cap_minutes=480,
    pairs_per_activity_day_max=6,
    check_in_early_minutes=30,
    missed_check_out_after_minutes=240,
)


class Ids:
    """Random ids by a seed."""

    def __init__(self, salt: str = "") -> None:
        self._random = random.Random(f"{SEED}/{salt}")

    def __call__(self) -> UUID:
        """One more."""
        return UUID(int=self._random.getrandbits(128), version=4)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to confirm: whose, and of which day."""

    volunteer: UUID
    entry: UUID
    served_on: date


def proposed(ids: Ids, volunteer: UUID, number: int) -> ServiceTimeProposed:
    """An hour and a half on the `number`-th day of the year."""
    day = date(2017, 1, 1) + timedelta(days=number % 365)
    begins = datetime(day.year, day.month, day.day, 1, 30, tzinfo=UTC)
    ends = begins + timedelta(minutes=MINUTES)
    return ServiceTimeProposed(
        volunteer_id=volunteer,
        entry_id=ids(),
        activity_id=ids(),
        unit_code=UNIT,
        hour_class="timed",
        served_on=day,
        starts_at=begins,
        ends_at=ends,
        minutes=MINUTES,
        recorder_id=_RECORDER,
        checked_in_by=_RECORDER,
        not_before=begins,
        not_after=ends + timedelta(hours=4),
    )


def confirmed(said: ServiceTimeProposed) -> ServiceTimeConfirmed:
    """The same, counted."""
    return ServiceTimeConfirmed(
        volunteer_id=said.volunteer_id,
        entry_id=said.entry_id,
        activity_id=said.activity_id,
        unit_code=said.unit_code,
        hour_class=said.hour_class,
        served_on=said.served_on,
        starts_at=said.starts_at,
        ends_at=said.ends_at,
        credited_minutes=MINUTES,
        over_cap_minutes=0,
        postings=(Posting(account="served", minutes=-MINUTES), Posting(account="timed", minutes=MINUTES)),
        policy_version=POLICY.version,
        recorder_id=said.recorder_id,
        approver_id=APPROVER.person_id,
    )


_RECORDER: Final = Ids("recorder")()
APPROVER: Final = Actor(Ids("approver")(), Role.UNIT_ADMIN, UNIT)


def account_of(volunteer: UUID) -> Stream:
    """The stream of a volunteer's account of 2017."""
    return Stream("account", account_id(volunteer, 2017))


def request(codec: Codec, ids: Ids, stream: Stream, version: int, events: Sequence[Event], key: str) -> AppendRequest:
    """An append as `submit` makes it: validated models become bytes, with ids, fingerprint, actor and trace."""
    command_id = ids()
    made = [event_id(command_id, index) for index in range(len(events))]
    said = [NewEvent(each, event.TYPE, event.VERSION, codec.encode(event, each)) for each, event in zip(made, events, strict=True)]
    return request_of(command_id, stream, version, said, key)


def request_of(command_id: UUID, stream: Stream, version: int, events: Sequence[NewEvent], key: str) -> AppendRequest:
    """The same with bytes that are there."""
    return AppendRequest(
        command_id=command_id,
        fingerprint=FINGERPRINT,
        stream=stream,
        expected_version=version,
        events=events,
        refusal=None,
        take=(),
        release=(),
        time=NOW,
        correlation_id=command_id,
        causation_id=None,
        actor=str(APPROVER),
        partition_key=key,
        traceparent=TRACE,
    )


async def append(log: Log, ids: Ids, volunteer: UUID, events: Sequence[Event], version: int = 0) -> int:
    """Appends to the volunteer's account through the lane; the number of events. Anything but "accepted" is an error."""
    answer = await log.store.append(request(log.codec, ids, account_of(volunteer), version, events, str(volunteer)))
    assert isinstance(answer, Answer), answer
    assert (answer.outcome, answer.count, answer.repeated) == ("accepted", len(events), False), answer
    return answer.count


async def seed_accounts(log: Log, ids: Ids, accounts: int, length: int) -> list[Entry]:
    """Accounts with `length` proposed entries each, appended beside each other; the entries of each account one after the other."""
    found: list[Entry] = []

    async def one() -> None:
        volunteer = ids()
        said = [proposed(ids, volunteer, number) for number in range(length)]
        found.extend(Entry(volunteer, each.entry_id, each.served_on) for each in said)
        await append(log, ids, volunteer, said)

    for begin in range(0, accounts, 100):
        await asyncio.gather(*(one() for _ in range(min(100, accounts - begin))))
    return found


async def say_policy(log: Log, ids: Ids) -> None:
    """Puts the policy into the log."""
    await log.store.append(request(log.codec, ids, Stream("hours_policy", ids()), 0, [POLICY], "policy"))


async def adopt_policy(log: Log, ids: Ids) -> None:
    """Puts the policy into the log, and where decisions look it up, by the service's own fold."""
    await say_policy(log, ids)
    (record,) = await log.store.read_page((await log.store.head()).position - 1, 1)
    for each in LOOK_UPS:
        if each.source == "hours":
            await each.fold(log.owner, [Fact(record, POLICY)])


async def confirm(commands: Commands[LookUps], ids: Ids, what: Entry) -> int:
    """A unit's leader confirms an entry; 1. Anything but "accepted" is an error."""
    command_id = ids()
    answer = await commands.submit(
        CONFIRM_SERVICE_TIME,
        ConfirmServiceTime(served_on=what.served_on),
        ids={"volunteer_id": what.volunteer, "entry_id": what.entry},
        actor=APPROVER,
        command_id=command_id,
        fingerprint=FINGERPRINT,
        correlation_id=command_id,
        causation_id=None,
        traceparent=TRACE,
    )
    assert (answer.outcome, answer.count, answer.repeated) == ("accepted", 1, False), answer
    return 1


async def propose(commands: Commands[LookUps], ids: Ids, volunteer: UUID, number: int) -> int:
    """Service time is proposed for a volunteer; 1."""
    command_id, said = ids(), proposed(ids, volunteer, number)
    answer = await commands.submit(
        PROPOSE_SERVICE_TIME,
        ProposeServiceTime.model_validate(said.model_dump()),
        ids={"volunteer_id": volunteer, "entry_id": said.entry_id},
        actor=APPROVER,
        command_id=command_id,
        fingerprint=FINGERPRINT,
        correlation_id=command_id,
        causation_id=None,
        traceparent=TRACE,
    )
    assert (answer.outcome, answer.count, answer.repeated) == ("accepted", 1, False), answer
    return 1


def each_account_in_turn(entries: Sequence[Entry], length: int, used: int) -> Iterator[Entry]:
    """The first `used` entries of every account, all accounts once before any comes again."""
    for number in range(used):
        yield from entries[number::length]


_MISPLACED: Final = """
    SELECT count(*) FROM (
        SELECT count(*) AS events, min(version) AS first, max(version) AS last FROM es.event GROUP BY category, stream_id
    ) AS stream WHERE first <> 1 OR events <> last
"""


async def check_log(log: Log, events: int, commands: int) -> str:
    """Holds the log against what was acknowledged, by SQL; a sentence that says so. Raises AssertionError."""
    row = await log.owner.fetchrow("SELECT count(*) AS events, coalesce(max(position), 0) AS head FROM es.event")
    assert row is not None
    assert row["events"] == row["head"] == events, (dict(row), events)
    assert await log.owner.fetchval(_MISPLACED) == 0
    kept = await log.owner.fetchval("SELECT count(*) FROM es.command")
    assert kept == commands, (kept, commands)
    return f"{events} events acknowledged, stored and dense; no stream has a gap; {commands} commands remembered"


_SUMS: Final = """
    SELECT (SELECT coalesce(sum(timed_minutes), 0)::bigint FROM api.balances) AS timed,
           (SELECT imbalance_minutes FROM api.ledger_sum) AS wrong, (SELECT count(*) FROM consumer.parked) AS parked
"""


async def check_balances(connection: Connection, confirmed_entries: int) -> str:
    """Holds the read models against what was confirmed, by SQL; a sentence that says so. Raises AssertionError."""
    row = await connection.fetchrow(_SUMS)
    assert row is not None
    assert (row["timed"], row["wrong"], row["parked"]) == (MINUTES * confirmed_entries, 0, 0), (dict(row), confirmed_entries)
    return f"balances say {row['timed']} minutes, {MINUTES} each for {confirmed_entries} confirmed; the ledger is at 0; nothing is parked"
