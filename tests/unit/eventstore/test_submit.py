"""`submit` over a store in memory: what is decided, on which state, and what a repeat is told."""

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from shared.application import Claim
from shared.envelope import Record, Stream
from shared.errors import FingerprintMismatchError, LogClosedError, StaleVersionError, StreamConflictError
from shared.eventstore.submit import TRIES_MAX
from shared.eventstore.values import Answer, AppendRequest, AppendResult
from shared.ids import event_id
from shared.privacy import PersonErasedError
from shared.testing.keys import MemoryKeys
from shared.testing.store import MemoryStore
from tests.integration.eventstore.decided import BODY, NOW, OTHER_BODY
from tests.integration.eventstore.enrolment import ACTOR, ERASE, NOT_DUE, REGISTER, Register, Seat, Service, UnknownActivityError


class CountingStore(MemoryStore):
    """The store in memory, counting what it is asked; `before_append` happens between decision and append."""

    def __init__(self) -> None:
        super().__init__("registration")
        self.reads = self.appends = self.asked = 0
        self.before_append: list[AppendRequest] = []

    async def read_stream(self, stream: Stream, after_version: int = 0, limit: int | None = None) -> list[Record]:
        self.reads += 1
        return list(await super().read_stream(stream, after_version, limit))

    async def append(self, request: AppendRequest) -> AppendResult:
        self.appends += 1
        if self.before_append:
            await super().append(self.before_append.pop(0))
        await asyncio.sleep(0)
        return await super().append(request)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def service(store: CountingStore) -> Service:
    return Service(store, MemoryKeys())


async def test_a_decision_becomes_events_with_all_that_was_known_of_it(service: Service, store: CountingStore) -> None:
    activity_id, volunteer_id, command_id = uuid4(), uuid4(), uuid4()
    answer = await service.take(activity_id, volunteer_id, command_id=command_id)
    assert answer == Answer(command_id, "accepted", 1, 1, None, repeated=False)
    (record,) = store.records
    assert (record.stream, record.version, record.type) == (Stream("activity", activity_id), 1, "registration.enrollment_accepted")
    assert (record.event_id, record.command_id) == (event_id(command_id, 0), command_id)
    assert (record.time, record.actor, record.partition_key) == (NOW, str(ACTOR), str(activity_id))


async def test_the_next_command_of_a_stream_is_decided_on_what_the_last_one_left_without_reading_again(
    service: Service, store: CountingStore
) -> None:
    activity_id, volunteer_id = uuid4(), uuid4()
    await service.take(activity_id, volunteer_id)
    await service.take(activity_id)
    refused = await service.take(activity_id)
    assert refused.refusal is not None
    assert refused.refusal.code == "activity_full"
    await service.leave(activity_id, volunteer_id)
    assert (await service.take(activity_id)).outcome == "accepted"
    assert store.reads == 1


async def test_the_cache_forgets_what_was_used_longest_ago(store: CountingStore) -> None:
    service = Service(store, MemoryKeys(), cached_streams_max=2)
    first, second, third = uuid4(), uuid4(), uuid4()
    for activity_id in (first, second, first, third, first, second):
        await service.take(activity_id, UUID(int=1))
    assert store.reads == 4  # The second one twice.


async def test_nothing_to_do_is_accepted_without_an_event(service: Service, store: CountingStore) -> None:
    activity_id, volunteer_id = uuid4(), uuid4()
    await service.take(activity_id, volunteer_id)
    again = await service.take(activity_id, volunteer_id)
    assert (again.outcome, again.count, again.repeated, len(store.records)) == ("accepted", 0, False, 1)


async def test_what_others_wrote_meanwhile_is_read_before_it_is_decided_again(service: Service, store: CountingStore) -> None:
    activity_id = uuid4()
    await service.take(activity_id)
    other = Service(store, MemoryKeys())
    await other.take(activity_id)
    refused = await service.take(activity_id)
    assert refused.outcome == "refused"
    assert (store.reads, len(store.records)) == (3, 2)


async def test_a_refusal_is_never_given_out_of_a_stale_cache(service: Service, store: CountingStore) -> None:
    """The schedule of D3: full in this process' memory, a seat freed by another process, and no conflicting event of our own."""
    activity_id, volunteer_id = uuid4(), uuid4()
    await service.take(activity_id, volunteer_id)
    await service.take(activity_id)
    assert (await service.take(activity_id)).outcome == "refused"
    await Service(store, MemoryKeys()).leave(activity_id, volunteer_id)
    assert (await service.take(activity_id)).outcome == "accepted"


async def test_nor_is_a_word_that_nothing_needs_doing(service: Service, store: CountingStore) -> None:
    activity_id, volunteer_id = uuid4(), uuid4()
    await service.take(activity_id, volunteer_id)
    await Service(store, MemoryKeys()).leave(activity_id, volunteer_id)
    assert (await service.take(activity_id, volunteer_id)).count == 1


async def test_a_stream_that_keeps_changing_is_given_up_after_so_many_tries(service: Service, store: CountingStore) -> None:
    activity_id = uuid4()
    for version in range(TRIES_MAX):
        await _prepare(store, activity_id, version)
    with pytest.raises(StreamConflictError):
        await service.leave(activity_id, UUID(int=1))
    assert store.appends == TRIES_MAX
    await _prepare(store, activity_id, TRIES_MAX)
    assert (await service.leave(activity_id, UUID(int=1))).outcome == "refused"  # One conflict is none to the caller.


async def _prepare(store: CountingStore, activity_id: UUID, version: int) -> None:
    """What another process appends between our decision and our append."""
    aside = MemoryStore("registration")
    caught: list[AppendRequest] = []

    class Catching(MemoryStore):
        async def append(self, request: AppendRequest) -> AppendResult:
            caught.append(request)
            return await aside.append(request)

    await Service(Catching("registration"), MemoryKeys()).take(activity_id)
    (request,) = caught
    store.before_append.append(replace(request, expected_version=version))


async def test_commands_to_one_stream_take_turns_and_never_conflict_inside_a_process(service: Service, store: CountingStore) -> None:
    activity_id, volunteers = uuid4(), [uuid4() for _ in range(30)]
    answers = await asyncio.gather(*(service.take(activity_id, each) for each in volunteers))
    assert sum(each.outcome == "accepted" for each in answers) == 2
    assert store.appends == 30
    assert not service.commands._turns


async def test_commands_to_different_streams_do_not_wait_for_one_another(service: Service, store: CountingStore) -> None:
    both = asyncio.Barrier(2)
    service.lookups.before_deciding = both.wait  # type: ignore[assignment]
    async with asyncio.timeout(5):
        await asyncio.gather(service.take(uuid4()), service.take(uuid4()))
    assert len(store.records) == 2


class TestARepeat:
    """A known command gets its first answer, whatever stands in the way now."""

    async def test_gets_it_though_deciding_would_go_differently(self, service: Service, store: CountingStore) -> None:
        activity_id, volunteer_id, command_id = uuid4(), uuid4(), uuid4()
        first = await service.take(activity_id, volunteer_id, command_id=command_id)
        await service.leave(activity_id, volunteer_id)
        again = await service.take(activity_id, volunteer_id, command_id=command_id)
        assert (again.first_position, again.count, again.repeated) == (first.first_position, 1, True)
        assert len(store.records) == 2

    async def test_gets_a_refusal_though_there_is_room_now(self, service: Service) -> None:
        activity_id, volunteer_id, command_id = uuid4(), uuid4(), uuid4()
        await service.take(activity_id, volunteer_id)
        await service.take(activity_id)
        first = await service.take(activity_id, command_id=command_id)
        await service.leave(activity_id, volunteer_id)
        again = await service.take(activity_id, command_id=command_id)
        assert (again.outcome, again.refusal, again.repeated) == ("refused", first.refusal, True)

    async def test_gets_it_though_planning_fails(self, service: Service) -> None:
        activity_id, volunteer_id, command_id = uuid4(), uuid4(), uuid4()
        first = await service.take(activity_id, volunteer_id, command_id=command_id)
        service.lookups.is_known = False
        again = await service.take(activity_id, volunteer_id, command_id=command_id)
        assert (again.first_position, again.repeated) == (first.first_position, True)
        with pytest.raises(FingerprintMismatchError):
            await service.take(activity_id, volunteer_id, command_id=command_id, fingerprint=OTHER_BODY)
        with pytest.raises(UnknownActivityError):
            await service.take(activity_id, volunteer_id)

    async def test_gets_it_though_its_version_is_old(self, service: Service) -> None:
        activity_id, command_id = uuid4(), uuid4()
        first = await service.take(activity_id, command_id=command_id, if_match=0)
        await service.take(activity_id)
        again = await service.take(activity_id, command_id=command_id, if_match=0)
        assert (again.first_position, again.repeated) == (first.first_position, True)

    async def test_gets_it_while_the_first_is_under_way(self, service: Service, store: CountingStore) -> None:
        activity_id, volunteer_id, command_id = uuid4(), uuid4(), uuid4()
        answers = await asyncio.gather(*(service.take(activity_id, volunteer_id, command_id=command_id) for _ in range(5)))
        assert sorted(each.repeated for each in answers) == [False, True, True, True, True]
        assert len(store.records) == 1

    async def test_with_another_body_is_told_so(self, service: Service) -> None:
        activity_id, command_id = uuid4(), uuid4()
        await service.take(activity_id, command_id=command_id, fingerprint=BODY)
        with pytest.raises(FingerprintMismatchError):
            await service.take(activity_id, command_id=command_id, fingerprint=OTHER_BODY)

    async def test_makes_no_keys_for_a_person_who_was_erased_since(self, store: CountingStore) -> None:
        keys = MemoryKeys()
        service, person, command_id = Service(store, keys), uuid4(), uuid4()
        body = Register(volunteer_id=person, id_number="110101199003070038")
        first = await service.submit(REGISTER, body, command_id=command_id)
        keys.destroyed.add(person)
        again = await service.submit(REGISTER, body, command_id=command_id)
        assert (again.first_position, again.repeated) == (first.first_position, True)

    async def test_makes_no_key_for_a_person_who_was_refused_the_first_time(self, store: CountingStore) -> None:
        keys = MemoryKeys()
        service, command_id = Service(store, keys), uuid4()
        service.lookups.is_open = False
        body = Register(volunteer_id=uuid4(), id_number="1")
        first = await service.submit(REGISTER, body, command_id=command_id)
        service.lookups.is_open = True
        again = await service.submit(REGISTER, body, command_id=command_id)
        assert (again.refusal, again.repeated, keys.made) == (first.refusal, True, set())

    async def test_of_what_is_not_kept_is_decided_again(self, service: Service, store: CountingStore) -> None:
        activity_id, command_id = uuid4(), uuid4()
        for _ in range(2):
            answer = await service.submit(NOT_DUE, Seat(volunteer_id=uuid4()), activity_id, command_id=command_id)
            assert (answer.outcome, answer.repeated) == ("refused", False)


class TestIfMatch:
    """The version a caller names is compared with the store's, not with this process' memory of it."""

    async def test_lets_the_named_version_through(self, service: Service) -> None:
        activity_id = uuid4()
        await service.take(activity_id, if_match=0)
        assert (await service.take(activity_id, if_match=1)).outcome == "accepted"

    @pytest.mark.parametrize("named", [0, 1, 3])
    async def test_stops_any_other_and_says_what_it_found(self, service: Service, store: CountingStore, named: int) -> None:
        activity_id = uuid4()
        await service.take(activity_id)
        await Service(store, MemoryKeys()).take(activity_id)
        with pytest.raises(StaleVersionError) as caught:
            await service.take(activity_id, if_match=named)
        assert (caught.value.expected, caught.value.actual) == (named, 2)
        assert len(store.records) == 2

    async def test_is_not_misled_by_an_old_memory(self, service: Service, store: CountingStore) -> None:
        activity_id = uuid4()
        await service.take(activity_id)
        await Service(store, MemoryKeys()).take(activity_id)
        assert (await service.take(activity_id, if_match=2)).refusal is not None

    async def test_stops_what_another_changed_between_reading_and_writing(self, service: Service, store: CountingStore) -> None:
        activity_id = uuid4()
        await _prepare(store, activity_id, 0)
        with pytest.raises(StaleVersionError):
            await service.take(activity_id, if_match=0)


class TestPersons:
    """Personal fields are sealed, their values claimed blind, and nothing of a person stays in memory."""

    async def test_have_their_fields_sealed_and_their_key_made_before(self, store: CountingStore) -> None:
        keys = MemoryKeys()
        person = uuid4()
        await Service(store, keys).submit(REGISTER, Register(volunteer_id=person, id_number="110101199003070038"))
        assert keys.made == {person}
        assert b"110101199003070038" not in store.records[0].payload
        assert "甲乙丙".encode() not in store.records[0].payload
        assert store.records[0].partition_key == str(person)
        assert store.claims == {Claim("id_number", keys.blind("id_number", "110101199003070038")): Stream("volunteer", person)}

    async def test_may_not_share_an_id_number_and_the_refusal_is_kept(self, service: Service, store: CountingStore) -> None:
        await service.submit(REGISTER, Register(volunteer_id=uuid4(), id_number="1"))
        second, command_id = Register(volunteer_id=uuid4(), id_number="1"), uuid4()
        refused = await service.submit(REGISTER, second, command_id=command_id)
        assert refused.refusal is not None
        assert refused.refusal.code == "id_number_taken"
        again = await service.submit(REGISTER, second, command_id=command_id)
        assert (again.refusal, again.repeated, len(store.records)) == (refused.refusal, True, 1)

    async def test_give_back_at_the_end_what_they_had_claimed(self, service: Service, store: CountingStore) -> None:
        person = uuid4()
        await service.submit(REGISTER, Register(volunteer_id=person, id_number="1"))
        await service.submit(ERASE, Seat(volunteer_id=person))
        assert store.claims == {}

    async def test_are_read_from_the_log_each_time_and_open_only_while_there_is_a_key(self, store: CountingStore) -> None:
        person = uuid4()
        keys = MemoryKeys()
        await Service(store, keys).submit(REGISTER, Register(volunteer_id=person, id_number="1"))
        elsewhere = MemoryKeys()
        elsewhere.made = keys.made
        other = Service(store, elsewhere)
        await other.submit(ERASE, Seat(volunteer_id=person))  # Opened with a key that this process had to load first.
        assert store.claims == {}
        assert not other.commands._cache

    async def test_who_were_erased_are_not_written_about(self, store: CountingStore) -> None:
        keys = MemoryKeys()
        person = uuid4()
        keys.destroyed.add(person)
        with pytest.raises(PersonErasedError):
            await Service(store, keys).submit(REGISTER, Register(volunteer_id=person, id_number="1"))
        assert store.records == []


async def test_what_went_wrong_leaves_no_memory_behind(service: Service, store: CountingStore) -> None:
    activity_id = uuid4()
    await service.take(activity_id)
    store.state = "read-only"
    with pytest.raises(LogClosedError):
        await service.take(activity_id)
    store.state = "open"
    await service.take(activity_id)
    assert store.reads == 2
    assert not service.commands._turns


async def test_outcomes_are_counted_by_command(service: Service, store: CountingStore) -> None:
    activity_id, command_id = uuid4(), uuid4()
    for _ in range(2):
        await service.take(activity_id, UUID(int=1), command_id=command_id)
    await service.take(activity_id)
    await service.take(activity_id)
    store.state = "recovering"
    with pytest.raises(LogClosedError):
        await service.take(activity_id)
    store.state = "open"
    with pytest.raises(StaleVersionError):
        await service.take(activity_id, if_match=9)
    said = service.metrics.render().decode()
    for outcome, count in (("accepted", 2), ("duplicate", 1), ("refused", 1), ("unavailable", 1), ("conflict", 1)):
        assert f'leifeng_command_outcomes_total{{command="take_seat",outcome="{outcome}",service="registration"}} {count}.0' in said
    assert 'leifeng_command_duration_seconds_count{command="take_seat",service="registration"} 6.0' in said
