"""Recognition through `submit`: who may apply, what the look-ups say, and a correction that arrives while a star is being granted."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest

from services.recognition import application, inbox
from services.recognition.application import APPLY_FOR_STAR, USE_CASES, ApplyForStar
from services.recognition.inbox import LookUps
from services.recognition.main import SERVICE
from shared import parked
from shared.application import Asked, Plan
from shared.codec import Codec
from shared.consumer import Kafka, Setting
from shared.consumer.apply import Consumer
from shared.consumer.inbox import Reactor, parts
from shared.consumer.values import Fact, system_actor
from shared.contracts.event import Event, Refusal
from shared.contracts.hours import ServiceTimeConfirmed, ServiceTimeCorrected
from shared.contracts.recognition import StarRevocationProposed
from shared.contracts.registration import VolunteerRegistered
from shared.contracts.topics import EVENTS, UPCASTERS
from shared.errors import InvariantError
from shared.eventstore.submit import Commands
from shared.eventstore.values import Answer
from shared.http.body import parse_model
from shared.metrics import Metrics
from shared.permissions import Actor, Role
from shared.postgres import Connection, Pool
from shared.privacy import PersonalKeys
from shared.testing.store import MemoryStore
from tests.integration.consumer.log import Log
from tests.integration.erasing import destroy_key
from tests.integration.recognition.conftest import Facts
from tests.integration.recognition.test_look_ups import confirmed, corrected, reversed_

NOW = datetime(2017, 6, 1, 1, tzinfo=UTC)
WHO = UUID(int=11)
CODEC = Codec(EVENTS, UPCASTERS)
FILE = 'version: "2012"\neffective_from: 2017-01-01\nthresholds_hours: [100, 300]\n'
BUREAU = Actor(UUID(int=1), Role.BUREAU_ADMIN, "water-bureau")
HERSELF = Actor(WHO, Role.VOLUNTEER, "reservoir-station")


class Recognition:
    """One process of the service, its log in memory, its look-ups in a real database."""

    def __init__(self, pool: Pool, facts: Facts, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore("recognition")
        self.look_ups = LookUps(pool)
        self._pool = pool
        self._facts = facts
        self._read = 0
        self.now = NOW
        keys, metrics = PersonalKeys(pool, bytes(32)), Metrics("recognition", "0")
        self.commands = Commands(self.store, CODEC, keys, self.look_ups, application.CLAIMS, self._clock, metrics)

    async def _clock(self) -> datetime:
        return self.now

    async def ask(self, name: str, body: bytes, actor: Actor, **ids: UUID) -> Answer:
        """A command as HTTP submits it."""
        use_case = next(each for each in USE_CASES if each.name == name)
        return await self.submit(use_case, parse_model(body, use_case.body), actor, ids)

    async def submit(self, use_case: Any, body: Any, actor: Actor, ids: Mapping[str, UUID], command_id: UUID | None = None) -> Answer:
        """Through the one way in; a repeat has the same `command_id`."""
        return await self.commands.submit(
            use_case, body, ids=dict(ids), actor=actor, command_id=command_id or uuid4(), fingerprint=None, correlation_id=uuid4(),
            causation_id=None, traceparent=None,
        )  # fmt: skip

    async def hears(self, *events: Event) -> None:
        """Facts of others arrive: look-ups first, then reactions."""
        await self._take(self._facts(*events))

    async def reads_itself(self) -> None:
        """The own log arrives too, until nothing follows any more."""
        while records := await self.store.read_page(self._read, 100):
            self._read = records[-1].position
            await self._take([Fact(each, CODEC.decode(each)) for each in records])

    async def _take(self, facts: Sequence[Fact]) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            for look_up in inbox.LOOK_UPS:
                await look_up.fold(connection, [each for each in facts if each.record.service == look_up.source])
        for fact in facts:
            for reaction in inbox.REACTIONS:
                if fact.record.service == reaction.source and fact.event.TYPE in reaction.types:
                    for each in await reaction.react(fact, self.look_ups, True):
                        await self.submit(each.use_case, each.body, system_actor("recognition"), each.ids)

    def types(self) -> list[str]:
        """What the log says, by type."""
        return [each.type.removeprefix("recognition.") for each in self.store.records]


async def _now() -> datetime:
    return NOW


@pytest.fixture
async def service(pool: Pool, facts: Facts) -> Recognition:
    """With a policy in force and one volunteer who has served exactly a hundred hours."""
    made = Recognition(pool, facts)
    await made.ask("adopt_star_policy", json.dumps({"file": FILE}).encode(), BUREAU)
    await made.reads_itself()
    person = {"number": "V1", "name": None, "id_number": None, "phone": None, "is_minor": False, "skills": None}
    await made.hears(VolunteerRegistered.model_validate({"volunteer_id": WHO, "unit_code": "reservoir-station", **person}))
    await made.hears(confirmed(WHO, timed=5900), confirmed(WHO, timed=100))
    return made


async def test_a_star_is_granted_and_goes_by_itself_when_hours_are_reversed(service: Recognition) -> None:
    answer = await service.ask("apply_for_star", b"{}", HERSELF, volunteer_id=WHO)
    assert (answer.outcome, answer.count) == ("accepted", 1)
    await service.reads_itself()
    await service.hears(reversed_(WHO, timed=-100))
    assert service.types() == ["star_policy_adopted", "star_granted", "star_withdrawn"]
    withdrawn = CODEC.decode(service.store.records[-1]).model_dump()
    assert (withdrawn["reason"], withdrawn["confirmed_minutes"], withdrawn["hours_position"]) == ("hours_reversed", 5900, 3)


async def test_a_star_granted_on_hours_that_were_gone_already_goes_at_once(service: Recognition) -> None:
    """The application has looked up the minutes; the reversal is reassessed, finds no star; then the star is appended."""
    asked = Asked(ApplyForStar(), {"volunteer_id": WHO}, HERSELF, NOW, uuid4())
    planned = await APPLY_FOR_STAR.plan(asked, service.look_ups)

    async def plan_of_a_moment_ago(_asked: Any, _look_ups: Any) -> Plan[Any]:
        return planned

    await service.hears(reversed_(WHO, timed=-100))
    await service.submit(replace(APPLY_FOR_STAR, plan=plan_of_a_moment_ago), ApplyForStar(), HERSELF, {"volunteer_id": WHO})
    assert service.types()[1:] == ["star_granted"]
    await service.reads_itself()
    assert service.types()[1:] == ["star_granted", "star_withdrawn"]


@pytest.mark.parametrize(
    ("actor", "who", "code"),
    [
        (Actor(UUID(int=99), Role.VOLUNTEER, "reservoir-station"), WHO, "not_own_record"),
        (Actor(UUID(int=98), Role.UNIT_ADMIN, "general-office"), WHO, "wrong_unit"),
        (Actor(UUID(int=98), Role.UNIT_ADMIN, "general-office"), UUID(int=77), "not_a_volunteer"),
        (BUREAU, UUID(int=77), "not_a_volunteer"),
    ],
)
async def test_who_may_not_ask_or_for_nobody_is_refused_and_leaves_no_event(
    service: Recognition, actor: Actor, who: UUID, code: str
) -> None:
    answer = await service.ask("apply_for_star", b"{}", actor, volunteer_id=who)
    assert answer.refusal is not None
    assert answer.refusal.code == code
    assert service.types() == ["star_policy_adopted"]


async def test_the_admin_of_the_unit_applies_by_proxy(service: Recognition) -> None:
    answer = await service.ask(
        "apply_for_star", b'{"stars": 1}', Actor(UUID(int=98), Role.UNIT_ADMIN, "reservoir-station"), volunteer_id=WHO
    )
    assert answer.count == 1


DEPUTY = Actor(UUID(int=2), Role.BUREAU_ADMIN, "water-bureau")


async def proposal_of(service: Recognition) -> UUID:
    """The volunteer was given a star, and the bureau wants it taken."""
    await service.ask("apply_for_star", b"{}", HERSELF, volunteer_id=WHO)
    await service.ask("propose_revocation", b'{"stars": 1, "reason_code": "false_record"}', BUREAU, volunteer_id=WHO)
    proposed = CODEC.decode(service.store.records[-1])
    assert isinstance(proposed, StarRevocationProposed)
    return proposed.proposal_id


@pytest.mark.parametrize("second", ["approve_revocation", "decline_revocation"])
async def test_of_two_who_decide_on_a_revocation_at_once_one_does(service: Recognition, pool: Pool, facts: Facts, second: str) -> None:
    """Each asks a process of their own, which holds the stream as it was before the other wrote."""
    proposal_id = await proposal_of(service)
    beside = Recognition(pool, facts, service.store)
    waits = await beside.ask("propose_revocation", b'{"stars": 1, "reason_code": "own_wish"}', DEPUTY, volunteer_id=WHO)
    assert waits.refusal == Refusal("revocation_already_proposed", {"proposal_id": str(proposal_id)})
    asked = {"volunteer_id": WHO, "proposal_id": proposal_id}
    answers = await asyncio.gather(
        service.ask("approve_revocation", b"{}", DEPUTY, **asked),
        beside.ask(second, b"{}", Actor(UUID(int=3), Role.BUREAU_ADMIN, "water-bureau"), **asked),
    )
    assert sorted((each.outcome, each.refusal.code if each.refusal else None) for each in answers) == [
        ("accepted", None),
        ("refused", "revocation_not_proposed"),
    ]
    assert len(service.types()) == 4
    assert service.types()[-1] in {"star_revoked", "star_revocation_declined"}


async def test_hours_do_not_give_a_revoked_star_back_until_the_policy_says_so(service: Recognition) -> None:
    proposal_id = await proposal_of(service)
    await service.ask("approve_revocation", b"{}", DEPUTY, volunteer_id=WHO, proposal_id=proposal_id)
    again = await service.ask("apply_for_star", b"{}", HERSELF, volunteer_id=WHO)
    assert again.refusal is not None
    assert again.refusal.code == "star_revoked"
    lenient = FILE.replace("2012", "later").replace("2017-01-01", "2017-06-02") + "reapply_after_revocation: true\n"
    await service.ask("adopt_star_policy", json.dumps({"file": lenient}).encode(), BUREAU)
    await service.reads_itself()
    assert [each.reapply_after_revocation for each in await service.look_ups.policies()] == [False, True]
    service.now = NOW + timedelta(days=1)
    assert (await service.ask("apply_for_star", b"{}", HERSELF, volunteer_id=WHO)).count == 1


async def test_nothing_is_decided_on_hours_that_are_parked(service: Recognition, pool: Pool) -> None:
    await pool.execute("INSERT INTO consumer.blocked VALUES ('inbox', 'hours', 'applied', $1, 'PayloadError')", str(WHO))
    answer = await service.ask("apply_for_star", b"{}", HERSELF, volunteer_id=WHO)
    assert answer.refusal is not None
    assert answer.refusal.code == "facts_parked"
    await pool.execute("DELETE FROM consumer.blocked")
    again = await service.ask("apply_for_star", b"{}", HERSELF, volunteer_id=WHO)
    assert again.count == 1


@pytest.mark.parametrize("actor", [HERSELF, BUREAU], ids=["themself", "the bureau"])
@pytest.mark.parametrize("parked_log", [None, "hours", "registration"])
async def test_who_was_erased_is_given_no_star_though_the_rest_be_parked(
    service: Recognition, pool: Pool, actor: Actor, parked_log: str | None
) -> None:
    await destroy_key(pool, WHO)
    if parked_log:
        await pool.execute("INSERT INTO consumer.blocked VALUES ('inbox', $1, 'applied', $2, 'PayloadError')", parked_log, str(WHO))
    answer = await service.ask("apply_for_star", b"{}", actor, volunteer_id=WHO)
    assert answer.refusal is not None
    assert answer.refusal.code == "person_erased"
    assert service.types() == ["star_policy_adopted"]


async def test_what_was_decided_before_the_erasure_was_heard_of_stands_and_a_repeat_of_it_is_given_the_same_answer(
    service: Recognition, pool: Pool
) -> None:
    planned = await APPLY_FOR_STAR.plan(Asked(ApplyForStar(), {"volunteer_id": WHO}, HERSELF, NOW, uuid4()), service.look_ups)

    async def plan_of_a_moment_ago(_asked: Any, _look_ups: Any) -> Plan[Any]:
        return planned

    await destroy_key(pool, WHO)
    command_id, body, ids = uuid4(), ApplyForStar(), {"volunteer_id": WHO}
    for use_case in (replace(APPLY_FOR_STAR, plan=plan_of_a_moment_ago), APPLY_FOR_STAR):
        answer = await service.submit(use_case, body, HERSELF, ids, command_id)
        assert (answer.outcome, answer.count) == ("accepted", 1)
    await service.reads_itself()
    assert service.types() == ["star_policy_adopted", "star_granted"]
    after = await service.submit(APPLY_FOR_STAR, body, HERSELF, ids)
    assert after.refusal is not None
    assert after.refusal.code == "person_erased"


async def test_a_correction_that_is_freed_before_what_stands_behind_it_is_reassessed_all_the_same(service: Recognition, pool: Pool) -> None:
    """Both wait at the look-ups; the correction is freed, and is reacted to while the confirmation behind it still holds the key."""
    await service.ask("apply_for_star", b"{}", HERSELF, volunteer_id=WHO)
    await service.reads_itself()
    refused: set[type[Event]] = {ServiceTimeCorrected, ServiceTimeConfirmed}

    async def until_cured(connection: Connection, facts: Sequence[Fact]) -> None:
        if any(type(each.event) in refused for each in facts):
            raise InvariantError("not cured yet")
        await inbox.fold_minutes(connection, facts)

    keys, metrics = PersonalKeys(pool, bytes(32)), Metrics("recognition", "0")
    setting = Setting(consumers=SERVICE.consumers, pool=pool, kafka=Kafka("", ""), codec=CODEC, keys=keys, metrics=metrics)
    [part] = [replace(each, folds=[until_cured]) for each in parts(setting) if each.source == "hours"]

    async def caught_up(_source: str) -> None:
        return

    reactor = Reactor(part, setting, service.commands.submit, service.look_ups, caught_up, asyncio.Event())
    look_ups, log = Consumer(part, pool, metrics), Log("hours")
    events = corrected(WHO, timed=-100), confirmed(WHO, timed=10)
    said = [
        log.say(str(WHO), each, payload=CODEC.encode(each, uuid5(log.log_id, str(position)))) for position, each in enumerate(events, 1)
    ]
    await look_ups.begin()
    await look_ups.take(said)
    refused.discard(ServiceTimeCorrected)
    [tried] = await parked.retry_parts(pool, [part], [reactor], str(WHO))
    assert (tried.released, tried.failed) == (1, "InvariantError")
    await reactor.begin()
    await reactor.take(said)
    assert service.types()[1:] == ["star_granted"]
    refused.clear()
    [tried] = await parked.retry_parts(pool, [part], [reactor], str(WHO))
    assert tried.failed is None
    assert service.types()[1:] == ["star_granted", "star_withdrawn"]
    assert CODEC.decode(service.store.records[-1]).model_dump()["confirmed_minutes"] == 5910


async def test_a_wrong_policy_file_is_refused_with_its_line(service: Recognition) -> None:
    answer = await service.ask("adopt_star_policy", b'{"file": "version: 1"}', BUREAU)
    assert answer.refusal is not None
    assert answer.refusal.detail["line"] == 1
    assert service.types() == ["star_policy_adopted"]
