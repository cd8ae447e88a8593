"""The runbooks' commands, run as they are written."""

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local.kafka import LocalKafka
from deploy.local.places import CHECKOUT
from deploy.local.postgres import HOST, SUPERUSER, LocalPostgres, installed_programs
from shared.access import grants
from shared.postgres import ABSENT, connect
from shared.privacy.keyfile import name_of
from tests.forks.children import python
from tests.integration.recover.conftest import SERVICE, Person, Ran, Site, run

RUNBOOKS = CHECKOUT / "deploy" / "runbooks"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, kafka_server: LocalKafka) -> Iterator[Site]:
    """Registration at work, on a PostgreSQL of its own that keeps what it acknowledges."""
    folder = tmp_path_factory.mktemp("runbooks")
    postgres = LocalPostgres(folder / "postgres", "a-password-of-the-test-run")
    postgres.start()
    made = Site(folder, postgres, kafka_server)
    made.migrate()
    made.start_service()
    yield made
    made.remove()
    postgres.remove()


class Runbook:
    """The shell blocks of one page, in order."""

    def __init__(self, site: Site, name: str, service: str = SERVICE) -> None:
        text = (RUNBOOKS / name).read_text(encoding="utf-8")
        self.blocks = [re.sub(r"^ {3}", "", block, flags=re.MULTILINE) for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
        self.site = site
        self.service = service

    async def follow(self, block: int, **more: str) -> Ran:
        """Runs a block; each of its commands must succeed."""
        process = await asyncio.create_subprocess_exec(
            "bash", "-euc", self.blocks[block], cwd=self.site.folder, env=_environment(self.site, self.service) | more,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(120):
            out, _ = await process.communicate()
        assert process.returncode == 0, f"{self.blocks[block]}\n{out.decode()}"
        return Ran(0, out.decode())


def _environment(site: Site, service: str) -> dict[str, str]:
    passwords = site.folder / "pgpass"
    owner = site.database(service)
    lines = [f"{HOST}:*:*:{owner}:{site.keys.database_password(service)}", f"{HOST}:*:*:{SUPERUSER}:{site.postgres.password}"]
    passwords.write_text("\n".join(lines) + "\n", encoding="utf-8")
    passwords.chmod(0o600)
    programs = os.pathsep.join(
        [str(Path(python()).parent), str(Path(sys.executable).parent), str(installed_programs()), os.environ["PATH"]]
    )
    return {
        **os.environ, **site.environment(service), "PATH": programs, "PYTHONPATH": str(CHECKOUT), "PGHOST": HOST,
        "PGPORT": str(site.postgres.port), "PGUSER": owner, "PGDATABASE": owner, "PGPASSFILE": str(passwords), "ADMIN": SUPERUSER,
    }  # fmt: skip


async def test_a_log_is_closed_and_opened_and_a_role_paused_and_resumed(site: Site) -> None:
    await site.adopt()
    page = Runbook(site, "log-read-only.md")
    assert len(page.blocks) == 2
    assert "state=read-only" in (await page.follow(0)).out
    assert (await site.register(site.person())).status_code == 200
    assert "paused=views" in (await page.follow(1)).out


async def unlucky(site: Site, condition: str) -> None:
    """From now on the read models of registration refuse what breaks `condition`, as a fault of the code would."""
    await site.sql(SERVICE, f"ALTER TABLE {await _views(site)}.volunteers ADD CONSTRAINT unlucky CHECK ({condition}) NOT VALID")


async def cured(site: Site) -> None:
    await site.sql(SERVICE, f"ALTER TABLE {await _views(site)}.volunteers DROP CONSTRAINT unlucky")


async def _views(site: Site) -> str:
    return str((await site.sql(SERVICE, "SELECT schema FROM consumer.views WHERE live"))[0]["schema"])


async def named(site: Site, *persons: Person) -> None:
    """They consent to be named in public."""
    for person in persons:
        said = {"consent": "be_named", "text_version": "2017-1"}
        answer = await site.ask(f"/volunteers/{person.id}/consents", said, person.id, "volunteer")
        assert answer.status_code == 200, answer.text


async def registered(site: Site, count: int) -> list[Person]:
    persons = [site.person() for _ in range(count)]
    for person in persons:
        assert (await site.register(person)).status_code == 200
    await site.caught_up()
    return persons


async def test_a_parked_key_is_looked_at_tried_and_released(site: Site) -> None:
    page = Runbook(site, "parked-keys.md")
    assert len(page.blocks) == 9
    [person] = await registered(site, 1)
    await unlucky(site, "named_position IS NULL")
    await named(site, person)
    await site.caught_up()
    assert f"key={person.id}" in (await page.follow(0)).out
    assert "registration.consent_given" in (await page.follow(1, KEY=str(person.id))).out
    tried = (await page.follow(2, KEY=str(person.id))).out
    assert "applied: fails: CheckViolationError volunteers unlucky at " in tried
    assert "no row would change" in tried
    await cured(site)
    tried = (await page.follow(2, KEY=str(person.id))).out
    assert "applied: would be applied" in tried
    assert f".volunteers volunteer_id={person.id} named_position=null->" in tried
    assert "甲乙丙" not in tried
    ran = await page.follow(3, KEY=str(person.id))
    assert "views registration: 1 released" in ran.out
    assert f"key={person.id}" not in ran.out


async def test_what_nobody_will_read_is_given_up_by_two(site: Site) -> None:
    page = Runbook(site, "parked-keys.md")
    [person] = await registered(site, 1)
    await unlucky(site, "named_position IS NULL")
    await named(site, person)
    await site.caught_up()
    await cured(site)
    said = {"KEY": str(person.id), "WHY": "a drill", "ME": "操作员甲", "SOMEBODY_ELSE": "操作员乙"}
    assert "asked_by=操作员甲" in (await page.follow(5, **said)).out
    with pytest.raises(AssertionError, match="another person approves"):
        await page.follow(6, **{**said, "SOMEBODY_ELSE": "操作员甲"})
    assert f"key={person.id}" in (await page.follow(0)).out
    await page.follow(6, **said)
    assert f"key={person.id}" not in (await page.follow(0)).out
    changes = (await site.run("log", "status")).out
    assert "parked -> discard asked for  by 操作员甲: a drill" in changes
    assert "discard asked for -> discarded  by 操作员乙: a drill" in changes


async def test_a_consumer_that_stopped_itself_is_named_and_let_go_on_and_its_keys_are_retried_by_reason(site: Site) -> None:
    page = Runbook(site, "parked-keys.md")
    persons = await registered(site, 6)
    await unlucky(site, "named_position IS NULL")
    await named(site, *persons)
    end = asyncio.get_running_loop().time() + 30
    while not await site.sql(SERVICE, "SELECT FROM consumer.stopped"):
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.05)
    assert "bad   consumers: stopped: views of registration would park" in (await page.follow(7)).out
    assert "error_class=CheckViolationError" in (await page.follow(8, WHY="a drill", ME="操作员甲")).out
    await site.caught_up()
    assert "ok    consumers: none has stopped itself" in (await page.follow(7)).out
    await cured(site)
    released = (await page.follow(4, REASON="CheckViolationError")).out
    assert released.count("views registration: 1 released") == len(persons)
    assert "consumer=views" not in (await page.follow(0)).out


async def test_read_models_are_rebuilt_compared_rolled_back_and_dropped(site: Site) -> None:
    person = site.person()
    assert (await site.register(person)).status_code == 200
    await site.caught_up()
    page = Runbook(site, "rebuild-read-models.md")
    assert len(page.blocks) == 5
    built = (await page.follow(0)).out
    assert "views_2 is live" in built
    digest = next(line for line in built.splitlines() if line.endswith("  all"))
    assert digest in (await page.follow(1)).out
    assert "views_1 is live" in (await page.follow(2)).out
    assert "dropped views_2" in (await page.follow(3)).out
    assert "views_2 is live" in (await page.follow(4)).out
    assert digest in (await page.follow(1)).out
    await page.follow(3)


LOOKED_AT: Final = {
    "events-do-not-arrive.md": ({}, ["ok    heads", " registration |"]),
    "heads-are-missing.md": ({}, [" registration |", "ok    heads"]),
    "events-are-not-published.md": ({}, ["ok    topic: "]),
    "log-is-not-what-was-read.md": ({}, ["ok    heads"]),
    "process-is-not-scraped.md": ({}, ["ok    migrations"]),
    "commands-are-unavailable.md": ({}, ["state=open"]),
    "worker-roles.md": ({}, ["role relay ", "ok    roles"]),
    "deadlines-are-overdue.md": ({}, [" offer |", "state=open", "UPDATE 1"]),
    "retries-rise.md": ({}, ["ok    topics"]),
    "connections-are-waited-for.md": ({"NAME": "a report"}, ["a report", " t\n"]),
    "refusals.md": ({"PERSON": str(UUID(int=1))}, [""]),
    "sign-in-link.md": ({"PERSON": str(UUID(int=1))}, ["/sign-in/link?key="]),
    "grant.md": (
        {"PERSON": str(UUID(int=1)), "OTHER": str(UUID(int=2))},
        ["\n".join(f'{UUID(int=who)}  {{"role":"bureau_admin","unit_code":"water-bureau"}}  granted' for who in (1, 2))],
    ),
}
"""Pages whose commands look, or do one small thing; what each block shows. Blocks that are the same on several pages are run once."""


async def test_an_admin_is_given_a_login_reads_the_unit_s_rows_and_is_let_go(site: Site) -> None:
    await site.adopt()
    await registered(site, 1)
    page, unit = Runbook(site, "sql-logins.md"), {"UNIT": "water-saving-office"}
    name = f"{site.database(SERVICE)}_unit_water-saving-office"
    assert len(page.blocks) == 5
    opened = "GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC"
    await site.sql(SERVICE, opened)
    assert "any SQL login can hold up all appends (pg_advisory_lock)" in (await site.run("doctor")).out
    await page.follow(4)
    assert "no SQL login can hold up the service" in (await site.run("doctor")).out
    assert f"{name} sees units water-saving-office until" in (await page.follow(0, **unit)).out
    secret = site.folder / "water-saving-office.password"
    assert secret.stat().st_mode & 0o077 == 0
    seen = (await page.follow(1, **unit)).out
    assert "water-saving-office | registered" in seen
    assert f"{name}  units=water-saving-office  until=" in (await page.follow(2)).out
    again = await site.run("logins", "add", "--unit", "water-saving-office", "--password-file", str(secret), "--reason", "again")
    assert (again.code, "is there already" in again.out) == (2, True)
    assert f"{name} is forgotten" in (await page.follow(3, **unit)).out
    noted = await site.sql(SERVICE, "SELECT was, becomes FROM es.log_change WHERE subject = $1 ORDER BY number", f"login {name}")
    assert [tuple(row) for row in noted] == [("none", "units water-saving-office"), ("units water-saving-office", "none")]


async def test_what_the_pages_say_is_to_be_looked_at_can_be_looked_at(site: Site) -> None:
    await site.caught_up()
    await site.sql(
        SERVICE, "INSERT INTO consumer.deadline VALUES "
        "('offer', 'k', '2017-01-01', 'u', '{}', '{}', gen_random_uuid(), 1, gen_random_uuid(), NULL, 'RuntimeError')",
    )  # fmt: skip
    report = await connect(site.dsn(SERVICE), "a report", idle_in_transaction_session_timeout="0")
    await report.execute("BEGIN; SELECT 1")
    ran = dict[str, Ran]()
    for name, (more, shown) in LOOKED_AT.items():
        page = Runbook(site, name)
        for number, (block, expected) in enumerate(zip(page.blocks, shown, strict=True)):
            if block not in ran:
                ran[block] = await page.follow(number, **more)
            assert expected in ran[block].out, (name, block, ran[block].out)
    with pytest.raises(ABSENT):
        await report.fetchval("SELECT 1")
    await site.sql(SERVICE, "DELETE FROM consumer.deadline WHERE key = 'k'")


async def test_a_key_file_that_is_not_the_right_one_is_named(site: Site) -> None:
    await site.adopt()
    assert (await site.register(site.person())).status_code == 200
    other = site.folder / "another-key"
    other.write_text("ab" * 32)
    other.chmod(0o600)
    ran = await Runbook(site, "keys-do-not-open.md").follow(0, REGISTRATION_KEY_FILE=str(other))
    assert "bad   keys: the key file does not open" in ran.out


async def test_an_erasure_is_listed_exported_and_done_again_after_a_key_came_back(site: Site) -> None:
    await site.adopt()
    page = Runbook(site, "erase-a-person.md")
    assert len(page.blocks) == 4
    kept, gone, asking = await registered(site, 3)
    outside = {"REGISTRATION_ERASURES_FILE": str(site.folder / "erased.jsonl")}
    assert (await site.ask(f"/volunteers/{asking.id}/erasure", {}, asking.id, "volunteer")).status_code == 200
    await site.caught_up()
    key = (await site.sql(SERVICE, "SELECT wrapped, wrapped_by, wrapped_with FROM keys.person WHERE subject = $1", gone.id))[0]
    assert (await site.erase(gone)).status_code == 200
    await site.caught_up()
    assert re.search(rf"requested  since .* {asking.id}", (await page.follow(0)).out)
    assert "1 of 1 erased persons are not in the list outside" in (await page.follow(1, **outside)).out
    assert "lists 1 erased persons, 1 of them new" in (await page.follow(2, **outside)).out
    assert "lists 1 erased persons, 0 of them new" in (await page.follow(2, **outside)).out
    assert "ok    erasures: 1 persons" in (await page.follow(1, **outside)).out
    await site.sql(SERVICE, "ALTER TABLE keys.person DISABLE TRIGGER person_key_stays_destroyed")
    await site.sql(
        SERVICE, "UPDATE keys.person SET wrapped = $2, wrapped_by = $3, wrapped_with = $4, destroyed_at = NULL WHERE subject = $1",
        gone.id, *key.values(),
    )  # fmt: skip
    await site.sql(SERVICE, "ALTER TABLE keys.person ENABLE ALWAYS TRIGGER person_key_stays_destroyed")
    assert "bad   erasures: 1 persons were erased and have a key here" in (await page.follow(1, **outside)).out
    assert f"erased again: {gone.id}" in (await page.follow(3, **outside)).out
    assert "0 persons of erased.jsonl had come back" in (await page.follow(3, **outside)).out
    rows = await site.sql(SERVICE, "SELECT subject FROM keys.person WHERE destroyed_at IS NOT NULL")
    assert [row["subject"] for row in rows] == [gone.id]
    assert kept.id not in {row["subject"] for row in rows}


async def test_the_head_of_the_chain_of_reads_is_published_and_its_end_missed_when_it_is_cut_off(site: Site) -> None:
    await site.adopt()
    page = Runbook(site, "reads-of-personal-data.md")
    assert len(page.blocks) == 3
    (person,) = await registered(site, 1)
    outside = {"REGISTRATION_READS_FILE": str(site.folder / "reads.jsonl")}
    async with site.client(SERVICE, "局长甲", "bureau_admin", "water-saving-office") as bureau:
        for reason in ("identity_check", "contact"):
            asked = {"fields": ["name"], "reason": reason}
            assert (await bureau.post(f"/api/v1/volunteers/{person.id}/reveal", json=asked)).status_code == 200
    assert "reads: reads.jsonl has no line of the last two days" in (await page.follow(2, **outside)).out
    said = (await page.follow(1, **outside)).out
    number = int(re.findall(r"registration: (\d+) reads, [0-9a-f]{64}\nadded to reads.jsonl", said)[0])
    assert f"as it was published up to number {number}" in (await page.follow(0, **outside)).out
    assert f"ok    reads: {number} reads" in (await page.follow(2, **outside)).out
    await site.sql(SERVICE, "ALTER TABLE audit.read DISABLE TRIGGER read_never_changes")
    await site.sql(SERVICE, "CREATE TABLE public.cut AS SELECT * FROM audit.read ORDER BY number DESC LIMIT 1")
    await site.sql(SERVICE, "DELETE FROM audit.read WHERE number = $1", number)
    assert f"number {number}: the rows up to {number} are cut off" in (await page.follow(0, **outside)).out
    await site.sql(SERVICE, "INSERT INTO audit.read SELECT * FROM public.cut")  # For the tests that follow.
    await site.sql(SERVICE, "DROP TABLE public.cut")
    await site.sql(SERVICE, "ALTER TABLE audit.read ENABLE ALWAYS TRIGGER read_never_changes")


def key_file(site: Site) -> Path:
    """Registration's."""
    return Path(site.environment(SERVICE)["REGISTRATION_KEY_FILE"])


async def test_the_key_is_rotated_under_running_processes_split_lost_and_put_together_again(site: Site) -> None:
    await site.adopt()
    known = site.person()
    assert (await site.register(known)).status_code == 200
    file = key_file(site)
    page = Runbook(site, "keys.md")
    assert len(page.blocks) == 7
    before = file.read_text().split()[0]
    assert re.search(r"in use  persons' keys: \d+ by a1  in escrow with nobody", (await page.follow(0)).out)
    await page.follow(1)
    await page.follow(2)
    assert (await site.ask(f"/volunteers/{known.id}/leave", {}, known.id, "volunteer")).status_code == 200
    assert (await site.register(site.person())).status_code == 200, "the processes have read the file again"
    await page.follow(4)
    assert "retired" in (await page.follow(3)).out
    assert before not in file.read_text()
    assert (await site.register(known, key="again")).status_code == 200, "what was sealed before opens, and so does the blind index"
    await site.caught_up()
    whole = file.read_text()
    file.unlink()
    await page.follow(5)
    joined = site.folder / "registration.key"
    assert joined.read_text() == whole
    joined.rename(file)
    doctor = (await page.follow(6)).out
    assert re.search(r"ok    keys: \d+ keys", doctor)
    assert re.search(r"ok    escrow: key \w{16} lies with 王一 and 李二", doctor)
    noted = await site.sql(SERVICE, "SELECT subject, reason FROM es.log_change WHERE reason = 'monthly rotation' ORDER BY number")
    subjects = [row["subject"] for row in noted]
    old, new = (name_of(bytes.fromhex(each)) for each in (before, whole.split()[0]))
    assert subjects == ["key-encryption key in use", "persons' keys", f"escrow of {new}", f"key-encryption key {old}"]


async def test_what_is_noted_of_the_keys_is_a_chain_for_each_of_them_however_often_they_are_rotated(site: Site) -> None:
    await site.adopt()
    page = Runbook(site, "keys.md")
    for turn in range(2):
        assert (await site.register(site.person())).status_code == 200
        for block in (1, 2, 3):
            await page.follow(block)
        halves = [str(site.folder / f"half-{turn}-{each}") for each in (1, 2)]
        custodians = ("--first-custodian", f"甲{turn}", "--second-custodian", f"乙{turn}")
        ran = await run(SERVICE, site.environment(SERVICE), "keys", "split", *halves, *custodians, "--reason", "a drill")
        assert ran.code == 0, ran.out
    stands: dict[str, str] = {}
    changes = await site.sql(SERVICE, "SELECT subject, was, becomes FROM es.log_change ORDER BY number")
    for row in changes:
        assert stands.get(row["subject"], row["was"]) == row["was"], dict(row)
        stands[row["subject"]] = row["becomes"]
    assert len([each for each in changes if each["subject"] == "key-encryption key in use"]) >= 2


async def live(site: Site, service: str) -> str:
    """The schema of the read models in use."""
    return str((await site.sql(service, "SELECT schema FROM consumer.views WHERE live"))[0]["schema"])


async def test_figures_that_differ_are_found_and_built_anew(site: Site) -> None:
    site.start("hours-worker", "recognition-worker")
    page = Runbook(site, "figures-differ.md")
    assert len(page.blocks) == 3
    await site.sql(SERVICE, f"INSERT INTO {await live(site, SERVICE)}.volunteer_minutes VALUES (gen_random_uuid(), 30, 0, 0, 0)")
    assert "30           0  DIFFERS by 30" in (await page.follow(0)).out
    assert "is live" in (await page.follow(1)).out
    done = (await page.follow(2)).out
    assert done.count("same") == 2
    assert "DIFFERS" not in done


async def test_a_ledger_that_is_out_of_balance_is_built_anew(site: Site) -> None:
    page = Runbook(site, "ledger-is-out-of-balance.md", "hours")
    assert len(page.blocks) == 3
    who = "gen_random_uuid(), 2017, 'u', gen_random_uuid()"
    await site.sql("hours", f"INSERT INTO {await live(site, 'hours')}.balances VALUES ({who}, 7, 0, 0, 0)")
    assert (await page.follow(0)).out.splitlines()[2].split("|")[-1].strip() == "7"
    assert "is live" in (await page.follow(1)).out
    assert (await page.follow(2)).out.splitlines()[2].strip() == "0"


async def test_a_topic_that_is_lost_is_complete_again(site: Site) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=site.kafka.servers)
    await admin.start()
    await admin.delete_topics([f"{site.prefix}{SERVICE}.events"])
    await admin.close()
    assert (await site.register(site.person())).status_code == 200
    page = Runbook(site, "kafka-lost.md")
    assert len(page.blocks) == 3
    await page.follow(0)
    await page.follow(1)
    assert "nothing differs" in (await page.follow(2)).out
    await site.caught_up()


async def test_an_older_dump_is_restored_and_nothing_is_missing(site: Site) -> None:
    await site.adopt()
    page = Runbook(site, "restore-an-older-backup.md")
    assert len(page.blocks) == 5
    await page.follow(0)
    person = site.person()
    first = await site.register(person)
    assert first.status_code == 200
    await site.caught_up()
    site.stop()
    before = await site.sql(SERVICE, "SELECT position, payload FROM es.event ORDER BY position")
    await page.follow(1)
    assert (await site.sql(SERVICE, "SELECT max(position) AS head FROM es.event"))[0]["head"] < before[-1]["position"]
    owner = await connect(site.dsn(SERVICE), "tests")
    assert list(await grants.open_to_everybody(owner)) == []
    await owner.close()
    await page.follow(2)
    assert f"key lost, sealed fields read null, claims not rebuilt: {person.id}" in (await page.follow(3)).out
    assert "nothing differs" in (await page.follow(4)).out
    assert await site.sql(SERVICE, "SELECT position, payload FROM es.event ORDER BY position") == before
    site.start_service()
    again = await site.register(person)
    assert (again.status_code, again.json()["position"]) == (200, first.json()["position"])
    assert (await site.register(site.person())).status_code == 200
    await site.caught_up()
