"""What is done with secrets and with persons' data while everything goes on: keys and passwords are rotated, people are erased."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import asyncpg
import httpx
from joserfc.jwk import ECKey

from deploy.local.environment import SERVICES
from shared.privacy.keyfile import name_of, read_ring, write_secret
from tests.faults import world
from tests.faults.clients import ANSWER_WITHIN_S
from tests.faults.forgotten import check_erased, check_proofs
from tests.faults.invariants import need
from tests.faults.nemesis.fault import BOTH, Fault, Scene
from tests.faults.nemesis.network import LISTS
from tests.faults.nemesis.operators import operate, ordered
from tests.faults.nemesis.processes import counted, shown
from tests.faults.system import until
from tests.faults.world import BUREAU
from tests.loopback import NO_TLS

READ_AGAIN_WITHIN_S = 30.0
"""A file is looked at every five seconds by a process that somebody asks."""
FIRST_ANSWER_WITHIN_S = 15.0
BUILT_WITHIN_S = 60.0
ERASED_WITHIN_S = 30.0
PARKED_WITHIN_S = 30.0
REBUILT_IN_S = 12.0
"""A rebuild is held back so that it takes this long: an erasure falls into it."""
COMING = 150
"""Events a second that come meanwhile, and more: without them a rebuild of a short log would never catch up."""
NEW_ONE_EVERY_S = 0.2
BECAUSE = ("--reason", "a fault of the harness", "--by", "局长甲")


def _apis(scene: Scene, *services: str) -> list[str]:
    return [name for name in scene.cluster.processes if name.partition("-")[0] in services and "-api" in name]


@contextmanager
def _nobody_is_turned_away(scene: Scene) -> Iterator[None]:
    """A block in which nobody who has a right to ask hears 401, and no process ends; that nobody hears 500 is seen by the clients."""
    known, expired = len(scene.clients.history), scene.clients.not_decided["token_expired"]
    with scene.unharmed():
        yield
    turned_away = [each for each in scene.clients.history[known:] if each.status == 401]
    assert not turned_away, turned_away[:3]
    assert scene.clients.not_decided["token_expired"] == expired, "tokens did not count any more"


# -- F35: secrets are rotated


@asynccontextmanager
async def _registering(scene: Scene) -> AsyncIterator[None]:
    """A block in which one after the other registers, each with a key of their own that is made and wrapped."""
    over = asyncio.Event()

    async def go_on() -> None:
        while not over.is_set():
            await scene.clerks.register()
            await asyncio.sleep(NEW_ONE_EVERY_S)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on())
        try:
            yield
        finally:
            over.set()


async def key_encryption_key_rotated(scene: Scene) -> None:
    """A new key is put in front, all persons' keys are wrapped by it, and the old one is taken out: none is ever without one that opens."""
    service, cluster = "registration", scene.cluster
    file = cluster.keys.encryption_key_file(service)
    workers = (f"{service}-worker", f"{service}-worker-2")
    processes = (*_apis(scene, service), *workers)
    old, unopened = read_ring(file), await counted(scene, processes, "key_unwrap_failures_total")
    with _nobody_is_turned_away(scene):
        async with _registering(scene):
            await ordered(scene, service, "keys", "new", *BECAUSE)
            await scene.answers(10, service=service)
            await ordered(scene, service, "keys", "rewrap", *BECAUSE)
            await ordered(scene, service, "keys", "retire", *BECAUSE)
            number = await scene.clerks.register()
    new = read_ring(file)
    assert len(new.keys) == 1, new
    assert new.current not in old.keys, new
    wrapped = {row["wrapped_by"] for row in await cluster.sql(service, _WRAPPED)}
    assert wrapped == {name_of(new.current)}, wrapped
    assert await counted(scene, processes, "key_unwrap_failures_total") == unopened, "a key did not open"
    names = await _revealed(scene, number)
    assert set(names.values()) == {world.name_of_their_own(number)}, names
    scene.happened["key-encryption key rotated"] += 1


async def signing_key_rotated(scene: Scene) -> None:
    """The new public key stands beside the old one, then the new one signs, then the old one is taken out."""
    keys, apis = scene.cluster.keys, _apis(scene, *SERVICES)
    public, private = keys.issuer_public_file, keys.issuer_private_file
    old = json.loads(public.read_text())["keys"]
    new = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256", "kid": secrets.token_hex(8)}, private=True)
    new_public = new.as_dict(private=False)
    signed_before = scene.clients.headers((*BUREAU, "bureau"))
    with _nobody_is_turned_away(scene):
        await _replaced(scene, apis, public, json.dumps({"keys": [*old, new_public]}))
        write_secret(private, json.dumps(new.as_dict(private=True)))
        scene.clients.sign_in_again()
        await scene.answers(20)
        assert await _statuses(scene, apis, signed_before) == [200] * len(apis), "tokens of before count until they end"
        await asyncio.sleep(ANSWER_WITHIN_S + 1)  # Whoever was asking with such a token has been answered.
        await _replaced(scene, apis, public, json.dumps({"keys": [new_public]}))
        assert await _statuses(scene, apis, signed_before) == [401] * len(apis), "the key that was taken out counts no more"
        await scene.answers(20)
    scene.happened["signing key rotated"] += 1


async def _replaced(scene: Scene, apis: Sequence[str], file: Path, content: str) -> None:
    """Puts another content in a file's place, and waits until each of these processes says that it has read it."""
    logs = {name: scene.cluster.processes[name].log for name in apis}
    sizes = {name: log.stat().st_size for name, log in logs.items()}
    write_secret(file, content)

    def have_read() -> bool:
        return all(_says(logs[name], sizes[name], "file_read_again", file.name) for name in apis)

    await until(have_read, READ_AGAIN_WITHIN_S, f"{file.name} read again by {', '.join(apis)}", every=0.2)


def _says(log: Path, since: int, *words: str) -> int:
    """In how many lines of a log all of these words stand together."""
    with log.open("rb") as lines:
        lines.seek(since)
        return sum(all(word.encode() in line for word in words) for line in lines)


async def _statuses(scene: Scene, apis: Sequence[str], headers: Mapping[str, str]) -> list[int]:
    """What each of the processes answers to whoever reads with these headers."""
    async with httpx.AsyncClient(timeout=ANSWER_WITHIN_S, verify=NO_TLS, headers=dict(headers)) as client:
        return [(await client.get(f"{scene.cluster.url(name)}/api/v1{LISTS[name.partition('-')[0]]}")).status_code for name in apis]


async def password_rotated(scene: Scene) -> None:
    """The file holds a new password before the database knows of it: who connects meanwhile waits; then everybody has to connect anew."""
    service, cluster = scene.random.choice(SERVICES), scene.cluster
    file, owner = cluster.keys.database_password_file(service), cluster.database(service)
    old, new = cluster.keys.database_password(service), secrets.token_hex(24)
    log = cluster.server(service).log
    with _nobody_is_turned_away(scene):
        since = log.stat().st_size
        write_secret(file, f"{new}\n")
        try:
            await cluster.sql(service, _END_IDLE, owner, f"{service} %")
            await until(lambda: _says(log, since, "password authentication failed", owner) > 0, FIRST_ANSWER_WITHIN_S, "a password refused")
            scene.happened["password refused in between"] += 1
        finally:
            await cluster.sql(service, f"ALTER ROLE {owner} PASSWORD '{new}'")
        await cluster.sql(service, _END_ALL, owner)
        await scene.answers(1, FIRST_ANSWER_WITHIN_S, service)
        await scene.answers(10)
    try:
        await (await asyncpg.connect(cluster.server(service).dsn(owner, owner, old), timeout=5)).close(timeout=5)
    except asyncpg.InvalidPasswordError:
        scene.happened["database password rotated"] += 1
    else:
        raise AssertionError(f"the old password of {owner} counts")


async def kafka_password_rotated(scene: Scene) -> None:
    """The brokers hold a new password of a service before its file does: who connects meanwhile waits; then everybody comes in anew."""
    service, cluster = scene.random.choice(SERVICES), scene.cluster
    file, user = cluster.users.password_file(service), cluster.kafka_user(service)
    old, new = cluster.users.password(service), secrets.token_hex(24)
    logs = [cluster.processes[name].log for name in (f"{service}-worker", f"{service}-worker-2")]
    with _nobody_is_turned_away(scene):
        try:
            await cluster.users.change(cluster.kafka, user, old, new)
            since = [log.stat().st_size for log in logs]
            for edge in cluster.edges(service, "kafka"):
                edge.reset()

            def is_refused() -> bool:
                return any(_says(log, size, "PasswordRefusedError", file.name) for log, size in zip(logs, since, strict=True))

            await until(is_refused, FIRST_ANSWER_WITHIN_S, f"the password of {user} refused")
            scene.happened["Kafka password refused in between"] += 1
            await scene.answers(10, service=service)
        finally:
            write_secret(file, f"{new}\n")
        took = await _all_come_in_anew(scene, service)
        print(f"{service} published, read and heard of all logs {took:.1f} s after its file had the new password of {user}")
        await scene.answers(10)
    assert not any(await cluster.users.lets_in(cluster.kafka, user, old)), f"the old password of {user} counts"
    scene.happened["Kafka password rotated"] += 1


async def _all_come_in_anew(scene: Scene, service: str) -> float:
    """Until the relay, the views and the reader of heads of a service have done something that was not there to do before; the seconds."""
    async with scene.cluster.asking(service) as asking:
        ((head, now),) = await asking.fetch("SELECT max(position), clock_timestamp() FROM es.event")

        async def have() -> bool:
            return bool(await asking.fetchval(_ARE_BACK, service, head, now))

        return await until(have, READ_AGAIN_WITHIN_S, f"{service} back in Kafka", every=0.1)


# -- F36: a person is erased at a bad moment


async def erased_during_a_rebuild(scene: Scene, services: Sequence[str]) -> None:
    """While read models that show something of a person are built anew, two others have the person erased."""
    service, number = scene.random.choice(services), await _somebody(scene)
    before = await _live(scene, service)
    await scene.clerks.ask_for_erasure(number)
    await _revealed(scene, number)
    rebuild = asyncio.create_task(operate(scene, service, "rebuild", "--rate", await _rate(scene, service)))
    try:
        await until(partial(_is_being_built, scene, service), BUILT_WITHIN_S, f"read models of {service} being built")
        approved = await scene.clerks.erase(number)
        assert not rebuild.done(), "the rebuild was over before the erasure"
        scene.happened["erased during a rebuild"] += 1
        await _is_erased_everywhere(scene, number)
        if service == "registration":
            await shown(scene, service, approved.position + 1, ERASED_WITHIN_S)
        was_shown = not rebuild.done()
        code, said = await rebuild
        assert code == 0, said
        await _is_forgotten(scene, number)  # What was live before is still there.
        after = await _live(scene, service)
        assert after != before
        if was_shown:
            one, other = [await _about(scene, service, schema, number) for schema in (before, after)]
            need(one == other, "I6", f"of the erased person {service} showed {one}, and built anew {other}")
            scene.happened["an erased person's rows built anew"] += sum(map(len, other.values()))
        await scene.clerks.register(with_number_of=number)
    finally:
        await asyncio.wait([rebuild])
        if await scene.cluster.sql(service, "SELECT FROM consumer.views WHERE NOT live"):
            await ordered(scene, service, "rebuild", "--drop-old")


async def erased_behind_a_parked_key(scene: Scene) -> None:
    """What follows for the person in the list of volunteers waits behind poison. The erasure does not, nor do the receipts."""
    cluster, number = scene.cluster, await _somebody(scene)
    who = world.volunteer(number)
    table = f"{await _live(scene, 'registration')}.volunteers"
    await cluster.sql(
        "registration", f"ALTER TABLE {table} ADD CONSTRAINT faults CHECK (volunteer_id <> '{who}' OR named_position IS NULL) NOT VALID"
    )
    try:
        path, body = f"/volunteers/{who}/consents", {"consent": "be_named", "text_version": "2017-1"}
        asked = await scene.clients.ask("registration", who, "volunteer", path, body)
        assert asked.types == ["consent_given"], asked
        await until(lambda: _waiting(scene, number, 1), PARKED_WITHIN_S, f"the key of {who} parked")
        await scene.clerks.ask_for_erasure(number)
        await _revealed(scene, number)
        await scene.clerks.erase(number)
        await _is_erased_everywhere(scene, number)
        await until(lambda: _waiting(scene, number, 4), PARKED_WITHIN_S, f"what follows for {who} parked")
        await _is_forgotten(scene, number)
        scene.happened["erased behind a parked key"] += 1
        scene.happened["parked key"] += 1
    finally:
        await cluster.sql("registration", f"ALTER TABLE {table} DROP CONSTRAINT faults")
    await ordered(scene, "registration", "parked", "retry", str(who))
    assert not await _waiting(scene, number, 1), f"{who} is still parked"
    await check_proofs(cluster, scene.clerks.erased.values())
    await _is_forgotten(scene, number)
    await scene.clerks.register(with_number_of=number)


async def _somebody(scene: Scene) -> int:
    """The number of somebody who has served, and comes no more; where none is left, of one who has only just registered."""
    number = await scene.season.leaver(scene.lasts(smoke=60, long=300))
    return await scene.clerks.register() if number is None else number


async def _live(scene: Scene, service: str) -> str:
    ((schema,),) = await scene.cluster.sql(service, "SELECT schema FROM consumer.views WHERE live")
    return str(schema)


async def _rate(scene: Scene, service: str) -> str:
    """Events a second at which all that the service's read models follow is read in `REBUILT_IN_S`, while more and more comes."""
    ((events,),) = await scene.cluster.sql(service, "SELECT sum(applied)::bigint FROM consumer.position WHERE consumer = 'views'")
    return str(round(events / REBUILT_IN_S) + COMING)


async def _is_being_built(scene: Scene, service: str) -> bool:
    found = "SELECT FROM consumer.position JOIN consumer.views ON NOT live WHERE consumer LIKE 'views@%' AND applied > 0"
    return bool(await scene.cluster.sql(service, found))


async def _is_erased_everywhere(scene: Scene, number: int) -> None:
    """Until every service has heard that all have done their part."""
    for service in SERVICES:

        async def has_heard(service: str = service) -> bool:
            states = await scene.cluster.sql(service, "SELECT state FROM consumer.erasure WHERE subject = $1", world.volunteer(number))
            return [row["state"] for row in states] == ["completed"]

        await until(has_heard, ERASED_WITHIN_S, f"{service} hears that the erasure is completed")


async def _is_forgotten(scene: Scene, number: int) -> None:
    """Nothing says any more who it was, and nothing is decided about them any more."""
    erased = scene.clerks.erased[world.volunteer(number)]
    await check_erased(scene.cluster, [erased])
    names = await _revealed(scene, number)
    need(set(names.values()) == {None}, "I15", f"{erased.volunteer_id} is shown as {names}")
    who, path = erased.volunteer_id, f"/volunteers/{erased.volunteer_id}"
    consent = {"consent": "be_named", "text_version": "2017-1"}
    for asked in (
        await scene.clients.ask("registration", who, "volunteer", f"{path}/consents", consent),
        await scene.clients.ask("registration", who, "volunteer", f"{path}/erasure", {}),
        await world.register(scene.clients, number, scene.clerks.programme),
    ):
        assert asked.code == erased.refusal, asked


async def _revealed(scene: Scene, number: int) -> dict[str, str | None]:
    """What each api of registration shows the bureau as the person's name."""
    said = {"fields": ["name"], "reason": "identity_check"}
    path, found = f"/api/v1/volunteers/{world.volunteer(number)}/reveal", dict[str, str | None]()
    headers = scene.clients.headers((*BUREAU, "bureau"))
    async with httpx.AsyncClient(timeout=ANSWER_WITHIN_S, verify=NO_TLS, headers=headers) as client:
        for name in _apis(scene, "registration"):
            answer = await client.post(scene.cluster.url(name) + path, json=said)
            assert answer.status_code == 200, answer.text
            found[name] = answer.json()["fields"]["name"]
    return found


async def _about(scene: Scene, service: str, schema: str, number: int) -> Mapping[str, Sequence[str]]:
    """All rows of read models that are about a person, but for the proof of the erasure, which goes on being written."""
    tables = await scene.cluster.sql(service, _TABLES_ABOUT, schema)
    rows = "SELECT to_jsonb(line)::text FROM {table} AS line WHERE volunteer_id = $1 ORDER BY 1"
    return {
        name: [row[0] for row in await scene.cluster.sql(service, rows.format(table=f"{schema}.{name}"), world.volunteer(number))]
        for (name,) in tables
    }


async def _waiting(scene: Scene, number: int, events: int) -> bool:
    """Whether so many events of a person wait in the read models of registration."""
    statement = "SELECT count(*) FROM consumer.parked WHERE key = $1 AND consumer = 'views'"
    ((waiting,),) = await scene.cluster.sql("registration", statement, str(world.volunteer(number)))
    return bool(waiting >= events)


_WRAPPED = "SELECT DISTINCT wrapped_by FROM keys.person WHERE wrapped IS NOT NULL"
_END_IDLE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND state = 'idle' AND application_name LIKE $2"
_END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"
_ARE_BACK = """
    SELECT applied >= $2 AND NOT EXISTS (SELECT FROM consumer.head WHERE seen_at <= $3)
    FROM consumer.position WHERE consumer = 'views' AND log = $1
"""
_TABLES_ABOUT = """
    SELECT table_name FROM information_schema.columns
    WHERE table_schema = $1 AND column_name = 'volunteer_id' AND table_name <> 'erasures' ORDER BY 1
"""


FAULTS: tuple[Fault, ...] = (
    Fault("F35.1", "key-encryption key rotated", 30, True, BOTH, key_encryption_key_rotated),
    Fault("F35.2", "signing key rotated", 30, True, BOTH, signing_key_rotated),
    Fault("F35.3", "database password rotated", 30, False, BOTH, password_rotated),
    Fault("F35.4", "Kafka password rotated", 30, True, BOTH, kafka_password_rotated),
    Fault("F36.4", "erased while names are built anew", 15, True, BOTH, partial(erased_during_a_rebuild, services=("registration",))),
    Fault(
        "F36.5", "erased while hours or stars are built anew", 15, True, BOTH,
        partial(erased_during_a_rebuild, services=("hours", "recognition")),
    ),
    Fault("F36.6", "erased behind a parked key", 15, True, BOTH, erased_behind_a_parked_key),
)  # fmt: skip
