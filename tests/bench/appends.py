"""append-new1, append-new10, append-callers, hot-stream, command-20: the store and `submit`, in this process, on a log of their own."""

import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from services.hours.application import LookUps
from shared.errors import StreamConflictError
from shared.eventstore.store import open_store
from shared.eventstore.submit import Commands
from shared.eventstore.values import Answer
from shared.postgres import open_pool
from shared.process import STORE_CONNECTIONS_MAX
from tests.bench import work
from tests.bench.beside import CACHE, EMMETT, EVENTSOURCE_PY, EVENTSOURCING, FUNCTIONS, MESSAGE_DB, PEERS, peers
from tests.bench.bounds import BATCH, bound, race
from tests.bench.measure import Effort, Found, Outcome, Slice, Work, closed_loop, contest
from tests.bench.place import Log, Place

CALLERS: Final = 16
CURVE: Final = (1, 128, 256)
HOT_STREAMS: Final = 4
LENGTH: Final = 20
USED: Final = 4
"""Commands that one account of 20 events takes before it is left alone: it is read at 20 to 23 events."""


Once = Callable[[], Awaitable[int]]


class _Appending:
    """Appends new streams, and counts what was acknowledged."""

    def __init__(self, log: Log, length: int) -> None:
        self._log, self._length, self._ids = log, length, work.Ids("append")
        self.events = self.commands = 0

    async def once(self) -> int:
        volunteer = self._ids()
        count = await work.append(
            self._log, self._ids, volunteer, [work.proposed(self._ids, volunteer, each) for each in range(self._length)]
        )
        self.events += count
        self.commands += 1
        return count

    async def repeat(self) -> str:
        """A known command is answered as the first time, and nothing is written."""
        said = work.proposed(self._ids, self._ids(), 0)
        request = work.request(self._log.codec, self._ids, work.account_of(said.volunteer_id), 0, [said], "repeat")
        first, again = await self._log.store.append(request), await self._log.store.append(request)
        assert isinstance(first, Answer)
        assert isinstance(again, Answer)
        assert (first.first_position, first.repeated, again.first_position, again.repeated) == (
            first.first_position,
            False,
            first.first_position,
            True,
        )
        self.events += 1
        self.commands += 1
        return "a repeated command got its first answer"


async def append_new1(place: Place, effort: Effort) -> Outcome:
    """New streams of one event, 16 callers."""
    return await _append_new(place, effort, 1)


async def append_new10(place: Place, effort: Effort) -> Outcome:
    """New streams of ten events, 16 callers."""
    return await _append_new(place, effort, 10)


async def _append_new(place: Place, effort: Effort, length: int) -> Outcome:
    async with place.log() as log, bound(place, log.codec, length=length) as made, peers(place, *PEERS) as others:
        cpu, doing, seconds = place.cpu(), _Appending(log, length), effort.slice_seconds

        def loop(callers: int, once: Once) -> Work:
            return lambda: closed_loop(callers, seconds, once, cpu)

        many = await contest(
            f"{CALLERS} callers",
            "events/s",
            loop(CALLERS, doing.once),
            {each.kind.label: each.appending(CALLERS, seconds, length) for each in others.running}
            | {
                "bound: insert, one transaction each": loop(CALLERS, made.insert),
                f"bound: executemany of {BATCH} streams a transaction": loop(1, made.batch),
            },
            effort,
            others.absent,
        )
        figures, goals = [many], dict[str, Found]()
        if length == 1:
            alone = {each.kind.label: each.appending(1, seconds) for each in others.running if each.kind is EVENTSOURCING}
            one = await contest("1 caller", "events/s", loop(1, doing.once), alone, effort, others.absent)
            figures.append(one)
            goals = {
                "G1": many.over(EVENTSOURCING.label),
                "G1b.functions": many.over(FUNCTIONS.label),
                "G1b.emmett": many.over(EMMETT.label),
                "G1b.message-db": many.over(MESSAGE_DB.label),
                "G1b.eventsource-py": many.over(EVENTSOURCE_PY.label),
                "G3": one.over(EVENTSOURCING.label),
                "G4": many.saved(EVENTSOURCING.label),
            }
        checked = [await doing.repeat(), await work.check_log(log, doing.events, doing.commands), await made.check()]
        return Outcome(figures, checked + await others.check(), goals)


async def append_callers(place: Place, effort: Effort) -> Outcome:
    """The curve over callers that wait: each beside 64 callers, and beside the guarded bound, which commits once for each command."""
    async with place.log() as log, bound(place, log.codec, connections=64) as made:
        cpu, doing = place.cpu(), _Appending(log, 1)

        def ours(callers: int) -> Work:
            return lambda: closed_loop(callers, effort.slice_seconds, doing.once, cpu)

        def theirs(callers: int) -> Work:
            return lambda: closed_loop(callers, effort.slice_seconds, made.guarded, cpu)

        against = {_callers(callers): ours(callers) for callers in CURVE}
        curve = await contest("64 callers", "events/s", ours(64), against | {"bound: guarded insert, 64": theirs(64)}, effort)
        few = await contest("16 callers", "events/s", ours(16), {"bound: guarded insert, 16": theirs(16)}, effort)
        alone = await contest("1 caller", "events/s", ours(1), {"bound: guarded insert, 1": theirs(1)}, effort)
        checked = [await work.check_log(log, doing.events, doing.commands), await made.check(), await race(place, log.codec)]
        return Outcome([curve, few, alone], checked, {"G13": (1 / curve.beside["256 callers"].ratio.median, curve)})


def _callers(count: int) -> str:
    return "1 caller" if count == 1 else f"{count} callers"


class _Hot:
    """Callers that all want the same few streams; each slice has fresh ones, so that none grows without end."""

    def __init__(self, *commands: Commands[LookUps]) -> None:
        self._commands, self._ids = commands, work.Ids(f"hot {len(commands)}")
        self.accepted = self.given_up = 0

    async def slice(self, run: Callable[[Once], Awaitable[Slice]]) -> Slice:
        volunteers = [self._ids() for _ in range(HOT_STREAMS)]
        turn = itertools.count()

        async def once() -> int:
            number = next(turn)
            commands = self._commands[number % len(self._commands)]
            while True:
                try:
                    done = await work.propose(commands, self._ids, volunteers[number // len(self._commands) % HOT_STREAMS], number)
                except StreamConflictError:  # Four tries were not enough; who asked asks again.
                    self.given_up += 1
                    continue
                self.accepted += done
                return done

        return await run(once)


async def hot_stream(place: Place, effort: Effort) -> Outcome:
    """Proposals through `submit`: 16 callers on 4 streams, from one process, and as if from two that know nothing of each other."""
    async with (
        place.log() as log,
        bound(place, log.codec) as made,
        peers(place, EVENTSOURCING) as others,
        open_pool(log.dsn, "second", STORE_CONNECTIONS_MAX, role=log.roles.app) as pool,
    ):
        store = await open_store(pool, "hours", log.metrics)
        try:
            cpu = place.cpu()
            one, two = _Hot(log.commands()), _Hot(log.commands(), log.commands(store))

            async def run(once: Once) -> Slice:
                return await closed_loop(CALLERS, effort.slice_seconds, once, cpu)

            async def hand_written() -> Slice:
                streams = await made.streams(HOT_STREAMS, 1)
                turn = itertools.count()
                return await run(lambda: made.retried(streams[next(turn) % HOT_STREAMS]))

            figure = await contest(
                f"{CALLERS} callers on {HOT_STREAMS} streams",
                "commands/s",
                lambda: one.slice(run),
                {"two lanes, as of two processes": lambda: two.slice(run), "bound: guarded insert, retried": hand_written}
                | {each.kind.label: each.hot(CALLERS, effort.slice_seconds, HOT_STREAMS) for each in others.running},
                effort,
                others.absent,
            )
        finally:
            await store.close()
        accepted = one.accepted + two.accepted
        conflicts = log.metrics.event_store_conflicts_total.labels("account")._value.get()
        checked = [
            await work.check_log(log, accepted, accepted),
            await made.check(),
            f"two lanes: {1 + conflicts / max(two.accepted, 1):.2f} tries for each success, {conflicts:.0f} conflicts",
            f"{one.given_up + two.given_up} commands needed more than the four tries of `submit`",
            *await others.check(),
            *(f"{each.kind.label}: {each.conflicts} conflicts, each tried again" for each in others.running),
        ]
        return Outcome([figure], checked)


async def command_20(place: Place, effort: Effort) -> Outcome:
    """`confirm_service_time` through `submit` on accounts of 20 events: looked up, read, folded, decided, appended; cache off, then on."""
    accounts = 40 if effort.small else 500
    async with place.log() as log, bound(place, log.codec) as made, peers(place, EVENTSOURCING, FUNCTIONS, CACHE, EMMETT) as others:
        cpu, ids = place.cpu(), work.Ids("command")
        await work.adopt_policy(log, ids)
        counted = {"commands": 0, "seeded": 1, "accounts": 1}

        async def submitted(commands: Commands[LookUps]) -> Slice:
            entries = await work.seed_accounts(log, ids, accounts, LENGTH)
            counted["seeded"] += len(entries)
            counted["accounts"] += accounts
            waiting = work.each_account_in_turn(entries, LENGTH, USED)

            async def once() -> int:
                what = next(waiting, None)
                return 0 if what is None else await work.confirm(commands, ids, what)

            done = await closed_loop(CALLERS, effort.slice_seconds, once, cpu)
            counted["commands"] += done.count
            return done

        async def hand_written() -> Slice:
            streams = await made.streams(accounts, LENGTH)
            waiting = itertools.chain.from_iterable(itertools.repeat(streams, USED))

            async def once() -> int:
                stream = next(waiting, None)
                return 0 if stream is None else await made.loaded(stream)

            return await closed_loop(CALLERS, effort.slice_seconds, once, cpu)

        cold, warm = log.commands(cached_streams_max=0), log.commands()
        theirs: dict[str, Work] = {
            each.kind.label: each.commanding(CALLERS, effort.slice_seconds, streams=accounts, length=LENGTH, used=USED)
            for each in others.running
        }
        read = await contest(
            f"{CALLERS} callers, every stream read",
            "commands/s",
            partial(submitted, cold),
            {"bound: read 20, parse, guarded insert": hand_written}
            | {label: each for label, each in theirs.items() if label != CACHE.label},
            effort,
            {label: why for label, why in others.absent.items() if label != CACHE.label},
        )
        cached = (EVENTSOURCING.label, CACHE.label)
        shipped = await contest(
            f"{CALLERS} callers, the cache as shipped",
            "commands/s",
            partial(submitted, warm),
            {"the same without the cache": partial(submitted, cold)} | {label: theirs[label] for label in cached if label in theirs},
            effort,
            {label: why for label, why in others.absent.items() if label in cached},
        )
        checked = [
            await work.check_log(log, counted["seeded"] + counted["commands"], counted["accounts"] + counted["commands"]),
            await made.check(),
            await _minutes(log, counted["commands"]),
            *await others.check(),
        ]
        goals = {"G2": read.over(EVENTSOURCING.label), "G2.shipped": shipped.over(EVENTSOURCING.label)}
        return Outcome([read, shipped], checked, goals)


async def _minutes(log: Log, commands: int) -> str:
    minutes = await log.owner.fetchval(
        "SELECT coalesce(sum((convert_from(payload, 'UTF8')::json ->> 'credited_minutes')::integer), 0) FROM es.event WHERE type = $1",
        "hours.service_time_confirmed",
    )
    assert minutes == work.MINUTES * commands, (minutes, commands)
    return f"{minutes} minutes credited, {work.MINUTES} for each command"
