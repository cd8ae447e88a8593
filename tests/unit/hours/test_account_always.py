"""Whatever is asked of an account, in any order: no minute counts twice, no day exceeds its cap, every group of postings balances."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from services.hours.domain import account
from services.hours.domain.account import Account
from services.hours.domain.day import civil_day, minutes_between
from shared.clock import CIVIL_ZONE
from shared.contracts.event import Event, Refusal
from shared.permissions import Actor, Role
from tests.unit.hours.scenes import ADMIN, CHIEF, DAY, POLICY, UNIT, VOLUNTEER, entry, proposed, survived

LAST_DAY_OF_YEAR = civil_day(DAY.replace(month=12, day=31), CIVIL_ZONE)
DAYS = (civil_day(DAY, CIVIL_ZONE), civil_day(DAY + timedelta(days=1), CIVIL_ZONE), LAST_DAY_OF_YEAR)
CAP = 300
TIGHT = POLICY.model_copy(update={"daily_cap_minutes": CAP})
NOW = datetime(2018, 2, 1, tzinfo=UTC)
ENTRIES = 9
"""Three for each of the days; more would meet less often."""
APPROVERS = st.sampled_from(
    [
        *[Actor(ADMIN, Role.UNIT_ADMIN, UNIT), Actor(CHIEF, Role.BUREAU_ADMIN, "bureau")] * 3,
        Actor(VOLUNTEER, Role.BUREAU_ADMIN, "bureau"),
        Actor(ADMIN, Role.UNIT_ADMIN, "elsewhere"),
    ]
)


@st.composite
def stretches(draw: st.DrawFn, last_minute: int) -> tuple[timedelta, timedelta]:
    """Where an interval lies in its day: of a few hours, so that intervals meet, and on odd seconds as well."""
    begins = timedelta(minutes=draw(st.integers(0, 16)) * 90, seconds=draw(st.sampled_from([0, 0, 1, 59])))
    length = timedelta(minutes=draw(st.sampled_from([0, 1, 60, 90, 91, 200, 400])), seconds=draw(st.sampled_from([0, 0, 30])))
    return begins, min(begins + length, timedelta(minutes=last_minute))


WITHIN = stretches(24 * 60).filter(lambda each: each[0] <= each[1])
ANYWHERE = stretches(26 * 60)
STEPS = st.lists(
    st.tuples(st.sampled_from(["confirm", "confirm", "confirm", "correct", "reverse"]), st.integers(0, ENTRIES), ANYWHERE, APPROVERS),
    min_size=10,
    max_size=30,
)


def answer(state: Account, what: str, number: int, stretch: tuple[timedelta, timedelta], approver: Actor) -> Any:
    day = DAYS[number % len(DAYS)]
    match what:
        case "confirm":
            return account.confirm(state, account.Confirm(VOLUNTEER, entry(number), day.on, approver, TIGHT))
        case "correct":
            return account.correct(
                state,
                account.Correct(
                    volunteer_id=VOLUNTEER,
                    entry_id=entry(number),
                    day=day,
                    starts_at=day.begins + stretch[0],
                    ends_at=day.begins + stretch[1],
                    reason_code="wrong_time",
                    requester_id=VOLUNTEER,
                    approver=approver,
                    policy=TIGHT,
                    now=NOW,
                ),
            )
        case _:
            return account.reverse(state, account.Reverse(VOLUNTEER, entry(number), day.on, "duplicate", VOLUNTEER, approver, TIGHT))


@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # To shrink these takes minutes.
@given(st.lists(WITHIN, min_size=ENTRIES, max_size=ENTRIES), STEPS)
def test_no_sequence_of_commands_breaks_the_account(
    waiting: list[tuple[timedelta, timedelta]], steps: list[tuple[str, int, tuple[timedelta, timedelta], Actor]]
) -> None:
    state, books, by_entry = Account(), Counter[str](), dict[UUID, Counter[str]]()
    for number, (begins, ends) in enumerate(waiting):
        day = DAYS[number % len(DAYS)]
        two_days = {"served_on": day.on, "not_before": day.begins, "not_after": day.begins + timedelta(days=2)}
        state = account.evolve(state, proposed(day.begins + begins, day.begins + ends, number, **two_days))
    for step in steps:
        said = answer(state, *step)
        if isinstance(said, Refusal):
            continue
        for event in said:
            state = account.evolve(state, survived(event))
            _post(event, books, by_entry)
        _holds(state)
    assert sum(books.values()) == 0
    for each, kept in state.entries.items():
        posted = by_entry.get(each, Counter[str]())
        assert (posted["timed"], posted["over_cap"]) == (kept.credited_minutes, kept.over_cap_minutes)


def _post(event: Event, books: Counter[str], by_entry: dict[UUID, Counter[str]]) -> None:
    group = Counter[str]()
    for posting in getattr(event, "postings", ()):
        group[posting.account] += posting.minutes
    assert sum(group.values()) == 0
    books.update(group)
    by_entry.setdefault(event.entry_id, Counter()).update(group)  # type: ignore[attr-defined]


def _holds(state: Account) -> None:
    counted = [each for each in state.entries.values() if each.state == "counted"]
    for one, other in combinations(counted, 2):
        assert one.ends_at <= other.starts_at or other.ends_at <= one.starts_at
    for day in DAYS:
        of_day = [each for each in counted if each.served_on == day.on]
        served = sum(minutes_between(each.starts_at, each.ends_at) for each in of_day)
        assert sum(each.credited_minutes for each in of_day) == min(served, CAP)
        assert sum(each.over_cap_minutes for each in of_day) == max(served - CAP, 0)
        assert all(day.holds(each.starts_at, each.ends_at) for each in of_day)
