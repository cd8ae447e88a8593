"""`doctor`: looks at everything that a service stands on, and says in one line each whether it is as it should be, and what to do."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from shared import acls, kafka
from shared.access import grants
from shared.audit.heads import head_of, read_file
from shared.consumer.schema import definition_hash, rules_of
from shared.consumer.values import Projection
from shared.contracts.topics import TOPICS
from shared.credentials import why_not
from shared.erasures import compare
from shared.errors import LeifengError
from shared.migrate import MigrationSet, Roles, pending
from shared.postgres import ABSENT, Connection, Pool
from shared.privacy import KeyEncryptionError, PersonalKeys
from shared.privacy.keyfile import KeyFile, name_of
from shared.relay.readback import read, reading
from shared.relay.steps import said_by
from shared.settings import Servers
from shared.states import status

SKEW_SECONDS_WARN: Final = 0.5
SKEW_SECONDS_BAD: Final = 5.0
DISK_DAYS_WARN: Final = 90.0
DISK_DAYS_BAD: Final = 14.0
SILENT_SECONDS_WARN: Final = 15.0
READS_FILE_AGE_MAX: Final = timedelta(days=2)
"""A log speaks of itself every two seconds."""

Level = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Line:
    """One finding: what was looked at, how it is, and what to do where it is not well."""

    level: Level
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.what}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is examined. `connection` is the owner's, `pool` acts as the app role."""

    connection: Connection
    pool: Pool
    roles: Roles
    service: str
    servers: Servers
    prefix: str
    key: KeyFile
    migrations: Sequence[MigrationSet]
    projections: Sequence[Projection]
    erasures_file: Path | None = None
    reads_file: Path | None = None
    free_gb: float | None = None
    """What is free on the database's disk; a database cannot be asked for it."""


async def examine(patient: Patient) -> AsyncIterator[Line]:
    """The findings, one after the other. What cannot be looked at is bad; nothing is changed."""
    examinations: Sequence[tuple[str, Callable[[Patient], Awaitable[Line]]]] = (
        ("migrations", _migrations),
        ("read models", _read_models),
        ("log", _log),
        ("roles", _paused),
        ("parked keys", _parked),
        ("consumers", _stopped),
        ("rights", _rights),
        ("topics", _topics),
        ("topic", _topic),
        ("heads", _heads),
        ("clocks", _clocks),
        ("keys", _keys),
        ("escrow", _escrow),
        ("erasures", _erasures),
        ("reads", _reads),
        ("durability", _durability),
        ("disk", _disk),
        ("grants", _grants),
        ("locks", _locks),
    )
    for what, look in examinations:
        try:
            yield await look(patient)
        except (*kafka.LOST_ERRORS, *ABSENT, LeifengError) as error:
            yield Line("bad", what, f"could not be looked at ({type(error).__name__}): {_first_line(error)}")


async def _migrations(patient: Patient) -> Line:
    lacking = await pending(patient.connection, patient.migrations)
    if lacking:
        return Line("bad", "migrations", f"{'; '.join(lacking)}: run `migrate` of the code that is to run")
    return Line("ok", "migrations", "all applied")


async def _read_models(patient: Patient) -> Line:
    row = await patient.connection.fetchrow("SELECT schema, definition_hash FROM consumer.views WHERE live")
    if row is None:
        return Line("bad", "read models", "there are none: run `migrate`")
    if row["definition_hash"] != definition_hash(patient.projections):
        return Line("warn", "read models", f"{row['schema']} was built by other definitions: run `rebuild`")
    return Line("ok", "read models", f"{row['schema']} was built by this code")


async def _log(patient: Patient) -> Line:
    row = await status(patient.connection)
    where = f"{row['state']} at position {row['head']}, sealed to {row['sealed']}, log id {row['log_id']}"
    if row["state"] == "recovering" or row["moved"] == "restored":
        return Line("bad", "log", f"{where}; it was restored from a copy: stop the processes and run `recover`")
    if row["moved"] != "no":
        return Line("bad", "log", f"{where}; on a new timeline, it waits for the relay to compare it with Kafka: are both running?")
    return Line("ok" if row["state"] == "open" else "warn", "log", where + ("" if row["state"] == "open" else "; `log open` opens it"))


async def _paused(patient: Patient) -> Line:
    paused = (await status(patient.connection))["paused"]
    if paused != "none":
        return Line("warn", "roles", f"{paused} paused: `role resume` lets the workers take them again, `log status` says who and why")
    return Line("ok", "roles", "none is paused")


async def _parked(patient: Patient) -> Line:
    keys = await patient.connection.fetchval("SELECT count(DISTINCT (consumer, log, key)) FROM consumer.parked")
    return Line("warn", "parked keys", f"{keys}: `parked list` names them") if keys else Line("ok", "parked keys", "none")


async def _stopped(patient: Patient) -> Line:
    rows = await patient.connection.fetch("SELECT consumer, log, stage, reason, keys FROM consumer.stopped ORDER BY consumer, log, stage")
    if rows:
        said = "; ".join(f"{row['consumer']} of {row['log']} would park {row['keys']} keys for {row['reason']}" for row in rows)
        return Line("bad", "consumers", f"stopped: {said}: bring the last release back, or let them go on (`parked override`)")
    return Line("ok", "consumers", "none has stopped itself")


async def _rights(patient: Patient) -> Line:
    if isinstance(patient.servers, str):
        if (why := await why_not(patient.servers)) is not None:
            return Line("bad", "rights", str(why))
        return Line("warn", "rights", "Kafka asks nobody who they are (KAFKA_SECURITY_PROTOCOL is PLAINTEXT): for one machine only")
    said = await acls.differences(patient.servers, patient.prefix, patient.service)
    if said:
        return Line("bad", "rights", f"{patient.servers.user or 'this user'} {'; '.join(said)}: `acls apply` gives and takes")
    return Line("ok", "rights", f"{patient.servers.user or 'this user'} may do in Kafka what {patient.service} needs, and nothing else")


async def _topics(patient: Patient) -> Line:
    own = [each for each in TOPICS.values() if each.owner == patient.service]
    cluster, differences = await kafka.cluster_as_declared(patient.servers, patient.prefix, own)
    if differences:
        return Line("bad", "topics", f"cluster {cluster}: {'; '.join(differences)}: set them as declared (shared/contracts/topics.py)")
    return Line("ok", "topics", f"as declared, in cluster {cluster}")


async def _topic(patient: Patient) -> Line:
    row = await status(patient.connection)
    topic = kafka.topic_name(patient.prefix, f"{patient.service}.events")
    async with reading(patient.servers, topic, f"{patient.service}.doctor") as consumer:
        first, end = await kafka.offsets(consumer, topic)
        if first == end:
            return Line(
                "ok" if row["sealed"] == 0 else "bad", "topic", f"{topic} is empty" + (": is a relay at work?" if row["sealed"] else "")
            )
        consumer.seek(kafka.only_partition(topic), end - 1)
        last = (await read(consumer, topic, end))[-1]
    said = said_by(row["log_id"], last)
    if said is None:
        return Line("bad", "topic", f"the last record of {topic} is not of this log: is it the right cluster and prefix?")
    if said.position > row["head"]:
        return Line("bad", "topic", f"Kafka is at position {said.position}, the log at {row['head']}: stop the processes and run `recover`")
    waiting = row["head"] - said.position
    return Line("ok", "topic", f"{topic} holds this log up to position {said.position}, {waiting} wait to be published")


async def _heads(patient: Patient) -> Line:
    rows = await patient.connection.fetch(_HEADS)
    other = sorted({row["log"] for row in rows if row["read_id"] is not None and row["read_id"] != row["log_id"]})
    if other:
        return Line("bad", "heads", f"{', '.join(other)} speaks under another log id than was read: a log made anew, or a wrong cluster")
    forked = sorted({row["log"] for row in rows if row["forked"]})
    if forked:
        return Line("bad", "heads", f"{', '.join(forked)} holds other events than were read here: it was restored and lost a tail; rebuild")
    silent = sorted({row["log"] for row in rows if row["ago"] > SILENT_SECONDS_WARN})
    if silent or not rows:
        return Line("warn", "heads", f"nothing was heard of {', '.join(silent) or 'any log'} lately: are relay and worker running?")
    return Line("ok", "heads", f"heard of {', '.join(sorted({row['log'] for row in rows}))}, under the log ids that were read")


async def _clocks(patient: Patient) -> Line:
    before = datetime.now(UTC)
    there: datetime = await patient.connection.fetchval("SELECT clock_timestamp()")
    after = datetime.now(UTC)
    skews = {"database": (there - (before + (after - before) / 2)).total_seconds()}
    for row in await patient.connection.fetch("SELECT log, said_at, seen_at FROM consumer.head"):
        if row["said_at"] > row["seen_at"]:  # A word from the future; one from the past may have been under way.
            skews[f"relay of {row['log']}"] = (row["said_at"] - row["seen_at"]) / timedelta(seconds=1)
    worst = max(abs(each) for each in skews.values())
    text = ", ".join(f"{who} {skew:+.3f} s" for who, skew in skews.items())
    if worst < SKEW_SECONDS_WARN:
        return Line("ok", "clocks", text)
    return Line("bad" if worst >= SKEW_SECONDS_BAD else "warn", "clocks", f"{text} against this machine: set the clocks by one time server")


async def _keys(patient: Patient) -> Line:
    rows = await patient.connection.fetch(_KEYS)
    if not rows:
        return Line("ok", "keys", "no person has a key yet")
    try:
        await PersonalKeys(patient.pool, patient.key).load([row["subject"] for row in rows])
    except KeyEncryptionError:
        return Line("bad", "keys", "the key file does not open the persons' keys: put the right one in its place")
    current = name_of(patient.key.ring.current)
    total, old = sum(row["keys"] for row in rows), sum(row["keys"] for row in rows if row["wrapped_by"] != current)
    if old:
        return Line("warn", "keys", f"{total} keys, {old} of them wrapped by an older key than the one in use: `keys rewrap`")
    if len(patient.key.ring.keys) > 1:
        return Line("warn", "keys", f"{total} keys; the file still holds older ones that wrap nothing: `keys retire`")
    return Line("ok", "keys", f"{total} keys, of which one was opened")


async def _escrow(patient: Patient) -> Line:
    current = name_of(patient.key.ring.current)
    row = await patient.connection.fetchrow(_ESCROW, current)
    if row is None:
        return Line("warn", "escrow", f"key {current} lies with no custodians; with its file all personal data would be lost: `keys split`")
    who = f"{row['first_custodian']} and {row['second_custodian']}"
    return Line("ok", "escrow", f"key {current} lies with {who}, since {row['at']:%Y-%m-%d}")


async def _erasures(patient: Patient) -> Line:
    done = await patient.connection.fetchval("SELECT count(*) FROM keys.person WHERE destroyed_at IS NOT NULL")
    if patient.erasures_file is None:
        if done == 0:
            return Line("ok", "erasures", "nobody was erased yet")
        return Line("warn", "erasures", f"{done} persons were erased, and no list of them is kept outside (setting ERASURES_FILE)")
    found = await compare(patient.connection, patient.service, patient.erasures_file)
    if found.revived:
        return Line("bad", "erasures", f"{len(found.revived)} persons were erased and have a key here: `erasures apply` destroys it again")
    if found.missing:
        return Line("warn", "erasures", f"{len(found.missing)} of {done} erased persons are not in the list outside: `erasures export`")
    return Line("ok", "erasures", f"{found.listed} persons in the list outside, none of them has a key here")


async def _reads(patient: Patient) -> Line:
    head = await head_of(patient.connection)
    if head is None:
        return Line("ok", "reads", "nobody has read personal data yet")
    if patient.reads_file is None:
        return Line("warn", "reads", f"{head.number} reads, and their head is said on Kafka only (setting READS_FILE)")
    lines = read_file(patient.reads_file, patient.service)
    if not lines or datetime.now(UTC) - lines[-1].at > READS_FILE_AGE_MAX:
        return Line("warn", "reads", f"{patient.reads_file.name} has no line of the last two days: `reads publish`, and does a worker run?")
    return Line("ok", "reads", f"{head.number} reads, {lines[-1].number} of them published {lines[-1].at:%Y-%m-%d %H:%M}")


async def _durability(patient: Patient) -> Line:
    row = await patient.connection.fetchrow(_DURABILITY)
    assert row is not None
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if row[name] == "off"]
    if off:
        return Line("bad", "durability", f"{', '.join(off)} off: an acknowledged event does not survive a crash of the machine")
    if not row["synchronous_standby_names"]:
        return Line("ok", "durability", "on this server's disk; no synchronous standby is declared")
    if row["standbys"] == 0:
        return Line("bad", "durability", f"no standby of {row['synchronous_standby_names']} is connected: every commit waits")
    return Line("ok", "durability", f"on this server's disk and synchronous standby {row['synchronous_standby_names']}")


async def _disk(patient: Patient) -> Line:
    row = await patient.connection.fetchrow(_DISK)
    assert row is not None
    size, days = row["size"] / 1e6, row["days"]
    text = f"the database takes {size:.0f} MB"
    if days is None or days < 1:
        return Line("ok", "disk", f"{text}; it is too young for a forecast")
    daily = size / 2 / days
    text += f", {daily:.1f} MB more each day of the last {days:.0f}"
    if patient.free_gb is None:
        return Line("ok", "disk", f"{text}; how long that lasts is said with --free-gb")
    left = patient.free_gb * 1000 / daily
    if left >= DISK_DAYS_WARN:
        return Line("ok", "disk", f"{text}; what is free lasts for {left:.0f} days")
    return Line("bad" if left < DISK_DAYS_BAD else "warn", "disk", f"{text}; what is free lasts for {left:.0f} days: make room")


async def _grants(patient: Patient) -> Line:
    roles = patient.roles
    more = await grants.beyond(patient.connection, roles)
    less = await grants.lacking(patient.connection, roles, rules_of(patient.projections))
    advice = [
        *([f"{'; '.join(more)}: revoke by hand what was granted by hand"] if more else []),
        *([f"{'; '.join(less)}: run `migrate`, or grant again by hand what was revoked by hand"] if less else []),
    ]
    if advice:
        return Line("bad", "grants", "; ".join(advice))
    return Line("ok", "grants", f"{roles.app} appends and cannot change the log, who reads schema api sees the rows of their units only")


async def _locks(patient: Patient) -> Line:
    found = await grants.open_to_everybody(patient.connection)
    if found:
        advice = "have a superuser run what `logins locks` prints"
        return Line("warn", "locks", f"any SQL login can hold up all appends ({', '.join(found)}): {advice}")
    return Line("ok", "locks", "no SQL login can hold up the service")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


_HEADS: Final = """
    SELECT head.log, head.log_id, place.log_id AS read_id, head.sealed = place.applied AND head.chain_hash <> place.applied_hash AS forked,
        extract(epoch FROM clock_timestamp() - head.seen_at)::float8 AS ago
    FROM consumer.head AS head LEFT JOIN consumer.position AS place USING (log)
"""
_KEYS: Final = """
    SELECT wrapped_by, count(*) AS keys, min(subject::text)::uuid AS subject FROM keys.person WHERE wrapped IS NOT NULL GROUP BY wrapped_by
"""
_ESCROW: Final = "SELECT first_custodian, second_custodian, at FROM keys.escrow WHERE key = $1 ORDER BY number DESC LIMIT 1"
_DURABILITY: Final = """
    SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
        current_setting('synchronous_commit') AS synchronous_commit,
        current_setting('synchronous_standby_names') AS synchronous_standby_names, (SELECT count(*) FROM pg_stat_replication) AS standbys
"""
_DISK: Final = """
    SELECT pg_database_size(current_database())::float8 AS size,
        (SELECT extract(epoch FROM clock_timestamp() - recorded_at)::float8 / 86400 FROM es.event
         WHERE position = (SELECT (max(position) + 1) / 2 FROM es.event)) AS days
"""
"""The size, and how long the later half of the log took: what grows grows with the log, and the figure follows a change of pace."""
