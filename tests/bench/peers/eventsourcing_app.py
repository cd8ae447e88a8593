"""`eventsourcing`, as its documentation writes an application: aggregates, a repository, `save`, a projection with a view; sixteen threads.

Nothing is set but the size of the pool, which is that of the callers, and what the bench says that it sets.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic, perf_counter, sleep
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import IntegrityError, Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL

from tests.bench.peers.serving import CONNECTIONS, Answer, Given, serve

FOLLOWED_WITHIN_SECONDS: Final = 120.0
given: Final = Given()


class Account(Aggregate):
    """A volunteer's entries: which wait, which count."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.waiting = {said["entry_id"]: said["minutes"]}

    class Created(Aggregate.Created):
        """The first entry waits."""

        said: dict[str, Any]

    class Proposed(Aggregate.Event):
        """An entry waits."""

        said: dict[str, Any]

        def apply(self, aggregate: "Account") -> None:
            """It is among those that wait."""
            aggregate.waiting[self.said["entry_id"]] = self.said["minutes"]

    class Confirmed(Aggregate.Event):
        """It counts."""

        said: dict[str, Any]

        def apply(self, aggregate: "Account") -> None:
            """It no longer waits."""
            del aggregate.waiting[self.said["entry_id"]]

    def propose(self, said: dict[str, Any]) -> None:
        """One more entry."""
        self.trigger_event(self.Proposed, said=said)

    def confirm(self, entry: str) -> None:
        """Raises ValueError when no such entry waits."""
        if entry not in self.waiting:
            raise ValueError(entry)
        self.trigger_event(self.Confirmed, said=given.confirmed(entry))


class Accounts(Application[UUID]):
    """All of them."""


class View(PostgresTrackingRecorder):
    """Two tables, and how far they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sql_create_statements += [
            SQL("CREATE TABLE IF NOT EXISTS entries (entry_id uuid PRIMARY KEY, minutes integer NOT NULL, confirmed boolean NOT NULL)"),
            SQL("CREATE TABLE IF NOT EXISTS balances (volunteer_id uuid PRIMARY KEY, minutes bigint NOT NULL)"),
        ]

    def proposed(self, said: dict[str, Any], tracking: Tracking) -> None:
        """A row, and the position, in one transaction."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute("INSERT INTO entries VALUES (%s, %s, false)", (said["entry_id"], said["minutes"]), prepare=True)

    def confirmed(self, volunteer: UUID, said: dict[str, Any], tracking: Tracking) -> None:
        """The row, the balance, the position, in one transaction."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute("UPDATE entries SET confirmed = true WHERE entry_id = %s", (said["entry_id"],), prepare=True)
            cursor.execute(
                "INSERT INTO balances AS b VALUES (%s, %s) ON CONFLICT (volunteer_id) DO UPDATE SET minutes = b.minutes + excluded.minutes",
                (volunteer, said["credited_minutes"]),
                prepare=True,
            )


class Balances(Projection[View]):
    """From events to rows."""

    name = "balances"
    committed: dict[int, float]
    """When the rows of a notification were committed; nobody looks while this is not set."""

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """No other events are here."""
        raise NotImplementedError(type(domain_event))

    @process_event.register
    def _opened(self, domain_event: Account.Created, tracking: Tracking) -> None:
        self.view.proposed(domain_event.said, tracking)
        self.committed[tracking.notification_id] = monotonic()

    @process_event.register
    def _proposed(self, domain_event: Account.Proposed, tracking: Tracking) -> None:
        self.view.proposed(domain_event.said, tracking)
        self.committed[tracking.notification_id] = monotonic()

    @process_event.register
    def _confirmed(self, domain_event: Account.Confirmed, tracking: Tracking) -> None:
        self.view.confirmed(domain_event.originator_id, domain_event.said, tracking)
        self.committed[tracking.notification_id] = monotonic()


def environment() -> dict[str, str]:
    """How it is told where its database is."""
    parts = urlsplit(given.dsn)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": parts.path[1:],
        "POSTGRES_HOST": parts.hostname or "",
        "POSTGRES_PORT": str(parts.port),
        "POSTGRES_USER": parts.username or "",
        "POSTGRES_PASSWORD": parts.password or "",
        "POSTGRES_POOL_SIZE": str(CONNECTIONS),
        "POSTGRES_MAX_OVERFLOW": str(CONNECTIONS),
        **given.settings,
    }


app: Final = Accounts(environment())
threads: Final = ThreadPoolExecutor(CONNECTIONS)


def opened(length: int) -> Account:
    """A new account with so many events, not yet saved."""
    account = Account(given.proposed())
    for _ in range(length - 1):
        account.propose(given.proposed())
    return account


def loop(callers: int, seconds: float, once: Callable[[], int]) -> dict[str, Any]:
    """`callers` threads call again and again; 0 says that there is nothing left to do."""
    began = perf_counter()
    end = began + seconds

    def call() -> tuple[int, list[float]]:
        count, latencies = 0, []
        while (started := perf_counter()) < end:
            done = once()
            if not done:
                break
            latencies.append(perf_counter() - started)
            count += done
        return count, latencies

    done = [each.result() for each in [threads.submit(call) for _ in range(callers)]]
    took = perf_counter() - began
    return {"count": sum(count for count, _ in done), "seconds": took, "latencies": [each for _, some in done for each in some]}


def append(callers: int, seconds: float, length: int) -> Answer:
    """New streams."""

    def once() -> int:
        app.save(opened(length))
        return length

    return loop(callers, seconds, once)


seeded: list[tuple[UUID, list[str]]] = []


def seed(streams: int, length: int) -> Answer:
    """Streams that wait for a command."""

    def one() -> tuple[UUID, list[str]]:
        account = opened(length)
        app.save(account)
        return account.id, list(account.waiting)

    seeded[:] = [each.result() for each in [threads.submit(one) for _ in range(streams)]]
    return {"count": streams * length}


def command(callers: int, seconds: float, used: int) -> Answer:
    """Read, decide, append."""
    waiting = iter([(stream, entries[number]) for number in range(used) for stream, entries in seeded])

    def once() -> int:
        stream, entry = next(waiting, (None, ""))
        if stream is None:
            return 0
        while True:
            account: Account = app.repository.get(stream)
            account.confirm(entry)
            try:
                app.save(account)
            except IntegrityError:  # A slow command was still at this stream when its turn came again.
                continue
            return 1

    return loop(callers, seconds, once)


def hot(callers: int, seconds: float, streams: int) -> Answer:
    """Few streams, many callers."""
    accounts = [opened(1) for _ in range(streams)]
    app.save(*accounts)
    turn, conflicts = iter(range(10**9)), []

    def once() -> int:
        stream = accounts[next(turn) % streams].id
        while True:
            account: Account = app.repository.get(stream)
            account.propose(given.proposed())
            try:
                app.save(account)
            except IntegrityError:
                conflicts.append(1)
                continue
            return 1

    return {**loop(callers, seconds, once), "conflicts": len(conflicts), "seeded": streams}


@contextmanager
def runner() -> Iterator[None]:
    """A projection that begins at the start, with empty tables."""
    with psycopg.connect(given.dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS entries, balances, balances_tracking")
    Balances.committed = {}
    made = ProjectionRunner(application_class=Accounts, projection_class=Balances, view_class=View, env=environment())
    with made:
        yield
    made.view.datastore.close()  # It closes its application, and not the pool of its view.


def project(events: int) -> Answer:
    """As many events, proposals and confirmations half and half; then rows follow from all of them."""
    made = 0 if app.recorder.max_notification_id() else halves(events)
    began = perf_counter()
    with runner():
        until(lambda: len(Balances.committed) == events)
        return {"count": events, "seeded": made, "seconds": perf_counter() - began}


def halves(events: int) -> int:
    """Accounts of twenty events, half of them proposals, half of them confirmations."""
    seed(events // 20, 10)
    for stream, entries in seeded:
        account: Account = app.repository.get(stream)
        for entry in entries:
            account.confirm(entry)
        app.save(account)
    return events


def follow(rate: float, seconds: float) -> Answer:
    """Saves by a schedule; the latencies to the committed rows, the first tenth dropped."""
    with runner():
        until(lambda: len(Balances.committed) == (app.recorder.max_notification_id() or 0))
        total = round(rate * seconds)
        began = monotonic() + 0.05

        def save(index: int) -> tuple[int, float]:
            (recording,) = app.save(opened(1))
            return recording.notification.id, began + index / rate

        saved = []
        for index in range(total):
            sleep(max(0.0, began + index / rate - monotonic()))
            saved.append(threads.submit(save, index))
        done = [each.result() for each in saved]
        until(lambda: all(number in Balances.committed for number, _ in done))
        latencies = [Balances.committed[number] - scheduled for number, scheduled in done]
        return {"count": total, "latencies": latencies[total // 10 :]}


def until(condition: Callable[[], bool]) -> None:
    """Waits for it. Raises TimeoutError."""
    end = monotonic() + FOLLOWED_WITHIN_SECONDS
    wake = threading.Event()
    while not condition():
        if monotonic() > end:
            raise TimeoutError
        wake.wait(0.002)


if __name__ == "__main__":
    serve({"append": append, "seed": seed, "command": command, "hot": hot, "project": project, "follow": follow})
    app.close()
    threads.shutdown()
