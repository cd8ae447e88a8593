"""What every event store does: the real one and the one in memory, by the same tests."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from shared.application import Claim
from shared.codec import EVENT_BYTES_MAX
from shared.contracts.event import Refusal
from shared.errors import EventTooLargeError, LogClosedError
from shared.eventstore.values import APPEND_EVENTS_MAX, TEXT_CHARS_MAX, Answer, ClaimTaken, Conflict, FingerprintMismatch
from tests.integration.eventstore.conftest import SERVICE, Subject
from tests.integration.eventstore.decided import NOW, OTHER_BODY, activity, decided, refused


async def accepted(subject: Subject, *args: object, **more: object) -> Answer:
    answer = await subject.store.append(decided(*args, **more))  # type: ignore[arg-type]
    assert isinstance(answer, Answer)
    return answer


async def test_what_was_appended_is_read_back_as_it_was_said(subject: Subject) -> None:
    stream, cause = activity(), uuid4()
    request = replace(
        decided(stream, 0, 2, payload=b'{"theme":"\\u0000 \xe5\xad\xa6\xe9\x9b\xb7\xe9\x94\x8b"}'),
        causation_id=cause,
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        partition_key="志愿者",
    )
    answer = await subject.store.append(request)
    assert answer == Answer(request.command_id, "accepted", 1, 2, None, repeated=False)
    first, second = await subject.store.read_stream(stream)
    assert (first.position, first.version, second.position, second.version) == (1, 1, 2, 2)
    assert (first.service, first.log_id, first.stream) == (SERVICE, (await subject.store.head()).log_id, stream)
    assert (first.event_id, second.event_id) == (request.events[0].event_id, request.events[1].event_id)
    assert (first.type, first.schema_version, first.payload) == ("registration.enrollment_accepted", 1, request.events[0].payload)
    assert (first.time, first.command_id, first.correlation_id) == (NOW, request.command_id, request.correlation_id)
    assert (first.causation_id, first.actor, first.partition_key) == (cause, request.actor, "志愿者")
    assert first.traceparent == request.traceparent
    assert await subject.store.read_page(0, 10) == [first, second]
    assert list(answer.written) == [first, second]


async def test_positions_are_dense_over_streams_and_versions_within_them(subject: Subject) -> None:
    one, other = activity(), activity()
    for stream, expected, events in ((one, 0, 2), (other, 0, 1), (one, 2, 3), (other, 1, 1)):
        await accepted(subject, stream, expected, events)
    records = await subject.store.read_page(0, 100)
    assert [each.position for each in records] == list(range(1, 8))
    assert [each.version for each in records if each.stream == one] == [1, 2, 3, 4, 5]
    assert [each.version for each in records if each.stream == other] == [1, 2]
    assert (await subject.store.head()).position == 7


async def test_pages_and_streams_are_read_from_where_one_stands(subject: Subject) -> None:
    stream = activity()
    await accepted(subject, stream, 0, 5)
    assert [each.position for each in await subject.store.read_page(1, 3)] == [2, 3, 4]
    assert await subject.store.read_page(5, 3) == []
    assert [each.version for each in await subject.store.read_stream(stream, 3)] == [4, 5]
    assert [each.version for each in await subject.store.read_stream(stream, 1, 3)] == [2, 3, 4]
    assert [each.version for each in await subject.store.read_stream(stream, limit=1)] == [1]
    assert [each.version for each in await subject.store.read_stream(stream, 4, 100)] == [5]
    assert await subject.store.read_stream(activity()) == []


async def test_histories_are_read_from_where_one_stands_and_hold_what_a_fold_needs(subject: Subject) -> None:
    one, other = activity(), activity()
    for stream, events in ((one, 5), (other, 2)):
        await accepted(subject, stream, 0, events)
    asked = ((one, 0), (other, 0), (one, 3), (one, 5), (activity(), 0))
    whole, others, rest, *nothing = await asyncio.gather(*(subject.store.history(stream, version) for stream, version in asked))
    for history, stream in ((whole, one), (others, other)):
        assert [(each.version, each.event_id, each.type, each.schema_version, each.payload) for each in history] == [
            (each.version, each.event_id, each.type, each.schema_version, each.payload) for each in await subject.store.read_stream(stream)
        ]
    assert rest == whole[3:]
    assert nothing == [[], []]


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_another_version_is_a_conflict_and_leaves_nothing(subject: Subject, expected: int) -> None:
    stream = activity()
    await accepted(subject, stream, 0, 2)
    request = decided(stream, expected, take=(Claim("number", "1"),))
    assert await subject.store.append(request) == Conflict(2)
    assert (await subject.store.head()).position == 2
    assert await subject.store.answer_of(request.command_id) is None
    await accepted(subject, activity(), 0, take=(Claim("number", "1"),))
    assert isinstance(await subject.store.append(replace(request, expected_version=2, take=())), Answer)


async def test_a_repeat_gets_the_first_answer_whatever_it_says_now(subject: Subject) -> None:
    stream = activity()
    request = decided(stream, 0, 2)
    first = await subject.store.append(request)
    assert isinstance(first, Answer)
    await accepted(subject, stream, 2)
    for again in (request, replace(request, expected_version=3), replace(request, events=(), refusal=Refusal("activity_full"))):
        assert await subject.store.append(again) == replace(first, repeated=True)
    assert (await subject.store.head()).position == 3


async def test_the_same_command_with_another_body_is_said_to_be_another(subject: Subject) -> None:
    request = decided(activity(), 0)
    first = await subject.store.append(request)
    assert isinstance(first, Answer)
    assert await subject.store.append(replace(request, fingerprint=OTHER_BODY)) == FingerprintMismatch()
    assert await subject.store.answer_of(request.command_id, OTHER_BODY) == FingerprintMismatch()
    assert await subject.store.answer_of(request.command_id) == replace(first, repeated=True)


async def test_ids_made_inside_have_no_fingerprint_and_answer_any_body(subject: Subject) -> None:
    request = decided(activity(), 0, fingerprint=None)
    await subject.store.append(request)
    again = await subject.store.append(replace(request, fingerprint=OTHER_BODY))
    assert isinstance(again, Answer)
    assert again.repeated


async def test_a_refusal_is_kept_word_for_word_and_leaves_no_event(subject: Subject) -> None:
    stream = activity()
    await accepted(subject, stream, 0)
    request = refused(stream, 1)
    answer = await subject.store.append(request)
    assert answer == Answer(request.command_id, "refused", 1, 0, request.refusal, repeated=False)
    assert answer.last_position == 1
    again = await subject.store.append(request)
    assert again == replace(answer, repeated=True)
    assert isinstance(again, Answer)
    assert again.refusal is not None
    assert list(again.refusal.detail.items()) == [("seats", 2), ("name", "湖边"), ("age", 9)]
    assert len(await subject.store.read_stream(stream)) == 1


@pytest.mark.parametrize("says_no", [True, False])
async def test_a_decision_without_events_is_answered_only_where_the_stream_stands(subject: Subject, says_no: bool) -> None:
    stream = activity()
    await accepted(subject, stream, 0, 2)
    stale = refused(stream, 1) if says_no else decided(stream, 1, 0)
    assert await subject.store.append(stale) == Conflict(2)
    assert await subject.store.answer_of(stale.command_id) is None


async def test_nothing_to_do_is_accepted_at_the_head_it_was_found_at(subject: Subject) -> None:
    stream = activity()
    empty = await accepted(subject, stream, 0, 0)
    assert (empty.outcome, empty.first_position, empty.count, empty.last_position) == ("accepted", 0, 0, 0)
    await accepted(subject, stream, 0, 2)
    later = await accepted(subject, stream, 2, 0)
    assert (later.first_position, later.last_position) == (2, 2)
    assert await subject.store.answer_of(later.command_id) == replace(later, repeated=True)


async def test_an_answer_not_worth_keeping_is_decided_again(subject: Subject) -> None:
    stream = activity()
    not_due = decided(stream, 0, 0, keep_answer=False)
    assert isinstance(await subject.store.append(not_due), Answer)
    assert await subject.store.answer_of(not_due.command_id) is None
    due = decided(stream, 0, 1, command_id=not_due.command_id, keep_answer=False)
    first = await subject.store.append(due)
    assert first == Answer(due.command_id, "accepted", 1, 1, None, repeated=False)
    assert await subject.store.append(due) == replace(first, repeated=True)


async def test_a_claim_is_held_by_one_stream_until_it_is_given_back(subject: Subject) -> None:
    number, mail = Claim("id_number", "a1"), Claim("mail", "a1")
    holder, other = activity(), activity()
    await accepted(subject, holder, 0, take=(number,))
    wanted = decided(other, 0, take=(mail, number))
    assert await subject.store.append(wanted) == ClaimTaken(number)
    assert await subject.store.answer_of(wanted.command_id) is None
    assert await subject.store.read_stream(other) == []
    await accepted(subject, holder, 1, take=(number,))  # Its own.
    await accepted(subject, other, 0, take=(mail,), release=(number,))  # Another's is not given back.
    assert await subject.store.append(decided(other, 1, take=(number,))) == ClaimTaken(number)
    await accepted(subject, holder, 2, release=(number,))
    await accepted(subject, other, 1, take=(number,))
    assert await subject.store.append(decided(holder, 3, take=(mail,))) == ClaimTaken(mail)


async def test_a_request_takes_as_many_events_as_it_may_and_no_more(subject: Subject) -> None:
    assert (await accepted(subject, activity(), 0, APPEND_EVENTS_MAX)).count == APPEND_EVENTS_MAX
    with pytest.raises(ValueError, match="501 events"):
        await subject.store.append(decided(activity(), 0, APPEND_EVENTS_MAX + 1))


async def test_an_event_over_the_cap_is_refused_and_one_at_the_cap_is_not(subject: Subject) -> None:
    await accepted(subject, activity(), 0, payload=b"x" * EVENT_BYTES_MAX)
    with pytest.raises(EventTooLargeError):
        await subject.store.append(decided(activity(), 0, payload=b"x" * (EVENT_BYTES_MAX + 1)))
    assert (await subject.store.head()).position == 1


@pytest.mark.parametrize("text", ["", "a\x00b", "half a pair \ud800", "x" * (TEXT_CHARS_MAX + 1)])
async def test_a_text_that_no_database_stores_is_refused_before_it_joins_others(subject: Subject, text: str) -> None:
    for unfit in (
        decided(activity(), 0, actor=text),
        decided(activity(), 0, take=(Claim("mail", text),)),
        replace(decided(activity(), 0), traceparent=text),
        decided(activity(), 0, 0, refusal=Refusal(text)),
    ):
        with pytest.raises(ValueError, match=r"cannot be stored|surrogates"):
            await subject.store.append(unfit)
    assert (await subject.store.head()).position == 0


@pytest.mark.parametrize("detail", [{"a\x00": 1}, {"why": "a\x00b"}, {"why": "\ud800"}, {"why": "x" * 4_001}])
async def test_what_a_refusal_adds_must_be_storable_too(subject: Subject, detail: dict[str, int | str]) -> None:
    with pytest.raises(ValueError, match=r"cannot be stored|surrogates"):
        await subject.store.append(decided(activity(), 0, 0, refusal=Refusal("full", detail)))


@pytest.mark.parametrize("state", ["read-only", "recovering"])
async def test_a_closed_log_takes_nothing_and_is_still_read(subject: Subject, state: str) -> None:
    stream = activity()
    await accepted(subject, stream, 0)
    await subject.close_log(state)
    for request in (decided(stream, 1), refused(stream, 1)):
        with pytest.raises(LogClosedError) as caught:
            await subject.store.append(request)
        assert caught.value.state == state
    assert len(await subject.store.read_stream(stream)) == 1
    await subject.close_log("open")
    await accepted(subject, stream, 1)
