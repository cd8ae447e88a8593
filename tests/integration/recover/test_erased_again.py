"""Who was erased stays erased when an older copy of the database is restored and Kafka tells nothing of the erasure any more (D12)."""

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.recover.conftest import SERVICE, Person, Ran, Site, run
from tests.integration.recover.test_restored import acknowledged
from tests.integration.relay.conftest import until

_HAS_KEY = "SELECT FROM keys.person WHERE subject = $1 AND wrapped IS NOT NULL"
_SIGNS_IN = "SELECT FROM signin.account WHERE person_id = $1"
_SHOWN = "SELECT masked_name FROM api.volunteers WHERE volunteer_id = $1"


@dataclass
class Restored:
    """A copy of before an erasure is in place, all of Kafka's data are gone, and only the list outside says who was erased."""

    site: Site
    kept: Person
    erased: Person
    list: Path

    async def recover(self) -> Ran:
        """As an operator types it."""
        environment = self.site.environment(SERVICE) | {"REGISTRATION_ERASURES_FILE": str(self.list)}
        return await run(SERVICE, environment, "recover", "--reason", "both were lost", "--by", "操作员")

    async def has_key(self, person: Person) -> bool:
        return bool(await self.site.sql(SERVICE, _HAS_KEY, person.id))

    async def shown(self, person: Person) -> str | None:
        """What the roll says of their name."""
        ((name,),) = await self.site.sql(SERVICE, _SHOWN, person.id)
        return None if name is None else str(name)


@pytest.fixture(scope="module")
async def restored(site: Site) -> Restored:
    """The drill up to the moment in which `recover` is typed."""
    made = Restored(site, site.person(), site.person(), site.folder / "erased.jsonl")
    site.start_service()
    await site.adopt()
    for person in (made.kept, made.erased):
        assert (await site.register(person)).status_code == 200
        await site.sql(SERVICE, "INSERT INTO signin.account VALUES ($1, $2, 'a hash')", f"login of {person.id}", person.id)
    await site.caught_up()
    site.stop()
    copy = site.back_up()
    site.start_service()
    assert (await site.erase(made.erased)).status_code == 200
    await until(lambda: acknowledged(site))
    await site.caught_up()
    assert not await made.has_key(made.erased)
    assert not await site.sql(SERVICE, _SIGNS_IN, made.erased.id)
    environment = site.environment(SERVICE) | {"REGISTRATION_ERASURES_FILE": str(made.list)}
    assert "lists 1 erased persons" in (await run(SERVICE, environment, "erasures", "export")).out
    site.stop()
    site.restore(copy)
    site.prefix = f"e{uuid4().hex[:10]}."  # Another Kafka, as it were: none of the topics is there.
    await site.sql(SERVICE, "UPDATE es.log SET system_id = 0")
    return made


async def test_a_list_that_cannot_be_read_leaves_the_log_closed(restored: Restored) -> None:
    listed = restored.list.read_text(encoding="utf-8")
    restored.list.write_text("no list of anything\n", encoding="utf-8")
    ran = await restored.recover()
    assert (ran.code, "the log stays closed: erased.jsonl is no list of erasures" in ran.out) == (1, True), ran.out
    assert await restored.site.state() == "recovering"
    restored.list.write_text(listed, encoding="utf-8")


async def test_recover_destroys_again_the_key_that_the_copy_brought_back_and_empties_what_is_shown(restored: Restored) -> None:
    assert await restored.has_key(restored.erased), "the copy has brought it back"
    assert await restored.shown(restored.erased) is not None
    assert await restored.site.sql(SERVICE, _SIGNS_IN, restored.erased.id)
    ran = await restored.recover()
    assert ran.code == 0, ran.out
    lines = ran.out.splitlines()
    assert lines.index(f"erased again: {restored.erased.id}") < next(at for at, line in enumerate(lines) if line.startswith("open at"))
    assert not await restored.has_key(restored.erased)
    assert await restored.shown(restored.erased) is None
    assert not await restored.site.sql(SERVICE, _SIGNS_IN, restored.erased.id)
    assert await restored.site.sql(SERVICE, _SIGNS_IN, restored.kept.id)
    assert (await restored.has_key(restored.kept), await restored.shown(restored.kept)) == (True, "甲**")
    assert "0 persons of erased.jsonl had come back" in (await restored.recover()).out


async def test_nobody_reads_or_writes_anything_of_them_from_then_on(restored: Restored) -> None:
    site = restored.site
    site.start_service()
    await site.caught_up()
    said = {"consent": "be_named", "text_version": "2017-1", "guardian_name": "某人"}
    assert (await site.ask(f"/volunteers/{restored.kept.id}/consents", said, restored.kept.id, "volunteer")).status_code == 200
    async with site.client(SERVICE, "局长甲", "bureau_admin", "water-saving-office") as bureau:
        asked = {"fields": ["name", "id_number", "phone"], "reason": "identity_check"}
        answer = await bureau.post(f"/api/v1/volunteers/{restored.erased.id}/reveal", json=asked)
    assert answer.json()["fields"] == dict.fromkeys(asked["fields"]), answer.text
    built = await site.run("rebuild")
    assert built.code == 0, built.out
    assert await restored.shown(restored.erased) is None, "what is built anew from the log"
    assert not await site.sql(SERVICE, "SELECT FROM consumer.parked")
