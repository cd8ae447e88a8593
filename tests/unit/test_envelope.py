"""The envelope: what CloudEvents readers see, what a broken record meets, and what the chain holds fast."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Final
from uuid import UUID

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.hours import CheckedIn
from shared.envelope import CHAIN_START, Record, Stream, chain_hash, headers_of, record_of
from shared.errors import EnvelopeError

SHANGHAI: Final = timezone(timedelta(hours=8))

RECORD: Final = Record(
    service="hours",
    log_id=UUID("0197f3a4-5c00-7000-8000-0000000000aa"),
    position=42,
    stream=Stream("attendance", UUID("0197f3a4-5c00-7000-8000-000000000001")),
    version=3,
    event_id=UUID("0197f3a4-5c00-7000-8000-000000000002"),
    type=CheckedIn.TYPE,
    schema_version=1,
    time=datetime(2017, 3, 22, 1, 30, 15, 123456, tzinfo=UTC),
    command_id=UUID("0197f3a4-5c00-7000-8000-000000000003"),
    correlation_id=UUID("0197f3a4-5c00-7000-8000-000000000004"),
    causation_id=UUID("0197f3a4-5c00-7000-8000-000000000005"),
    actor="kiosk:0197f3a4-5c00-7000-8000-000000000006",
    partition_key="0197f3a4-5c00-7000-8000-000000000007",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    payload='{"pair":1,"place":"节水馆"}'.encode(),
)

TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
RECORDS: Final = st.builds(
    Record,
    service=st.sampled_from(["registration", "hours", "recognition"]),
    log_id=st.uuids(),
    position=st.integers(1, 2**63 - 1),
    stream=st.builds(Stream, st.sampled_from(["activity", "hours_policy"]), st.uuids()),
    version=st.integers(1, 2**31 - 1),
    event_id=st.uuids(),
    type=TEXT,
    schema_version=st.integers(1, 99),
    time=st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.sampled_from([UTC, SHANGHAI])),  # noqa: DTZ001  # The zone is added.
    command_id=st.uuids(),
    correlation_id=st.uuids(),
    causation_id=st.none() | st.uuids(),
    actor=TEXT,
    partition_key=TEXT,
    traceparent=st.none() | TEXT,
    payload=st.binary(max_size=60),
)


@given(RECORDS)
def test_a_record_comes_back_from_its_headers(record: Record) -> None:
    assert record_of(headers_of(record), record.payload) == record


@given(RECORDS)
def test_the_same_instant_has_the_same_bytes_in_every_zone(record: Record) -> None:
    elsewhere = replace(record, time=record.time.astimezone(timezone(timedelta(hours=-5, minutes=-30))))
    assert headers_of(elsewhere) == headers_of(record)


def test_the_official_sdk_reads_a_record_in_binary_mode() -> None:
    headers = [*headers_of(RECORD), ("ce_chainhash", b"0" * 64)]
    event = from_binary_event(KafkaMessage(dict(headers), RECORD.partition_key, RECORD.payload))

    assert event.get_specversion() == "1.0"
    assert event.get_id() == str(RECORD.event_id)
    assert event.get_source() == "/leifeng/hours"
    assert event.get_type() == "hours.checked_in"
    assert event.get_subject() == str(RECORD.stream)
    assert event.get_time() == RECORD.time
    assert event.get_dataschema() == "urn:leifeng:schema:hours.checked_in:1"
    assert event.get_datacontenttype() == "application/json"
    assert event.get_data() == {"pair": 1, "place": "节水馆"}
    assert {name: event.get_extension(name) for name in ("partitionkey", "logid", "sequence", "streamversion", "actor", "chainhash")} == {
        "partitionkey": RECORD.partition_key,
        "logid": str(RECORD.log_id),
        "sequence": "00000000000000000042",
        "streamversion": "3",
        "actor": RECORD.actor,
        "chainhash": "0" * 64,
    }


REQUIRED: Final = [name for name, _ in headers_of(RECORD) if name not in {"ce_causationid", "traceparent"}]
READ: Final = [name for name in REQUIRED if name not in {"ce_specversion", "ce_dataschema", "content-type"}]


@pytest.mark.parametrize("name", READ)
def test_a_header_that_is_missing_is_refused_by_name(name: str) -> None:
    with pytest.raises(EnvelopeError, match=name):
        record_of([pair for pair in headers_of(RECORD) if pair[0] != name], RECORD.payload)


@pytest.mark.parametrize("name", [name for name, _ in headers_of(RECORD)])
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda name, value: [(name, None)], "null"),
        (lambda name, value: [(name, value), (name, value)], "doubled"),
        (lambda name, value: [(name, b"\xff" + value)], "not UTF-8"),
    ],
)
def test_a_header_that_is_null_doubled_or_not_utf8_is_refused(
    name: str, broken: Callable[[str, bytes], list[tuple[str, bytes | None]]], said: str
) -> None:
    headers: list[tuple[str, bytes | None]] = []
    for each, value in headers_of(RECORD):
        headers += broken(each, value) if each == name else [(each, value)]
    with pytest.raises(EnvelopeError, match=said):
        record_of(headers, RECORD.payload)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_id", b"not-a-uuid"),
        ("ce_logid", b""),
        ("ce_subject", b"attendance"),
        ("ce_subject", b"attendance-1"),
        ("ce_sequence", b"one"),
        ("ce_streamversion", b"1.5"),
        ("ce_schemaversion", b""),
        ("ce_time", b"yesterday"),
        ("ce_time", b"2017-03-22T01:30:15"),
        ("ce_causationid", b""),
    ],
)
def test_a_header_that_does_not_parse_is_refused(name: str, value: bytes) -> None:
    headers = [(each, value if each == name else kept) for each, kept in headers_of(RECORD)]
    with pytest.raises(EnvelopeError):
        record_of(headers, RECORD.payload)


def test_a_record_without_a_value_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="no value"):
        record_of(headers_of(RECORD), None)


def test_a_refusal_says_nothing_of_what_the_header_held() -> None:
    headers = [(name, b"Li Hua" if name == "ce_actor" else value) for name, value in headers_of(RECORD) if name != "ce_id"]
    with pytest.raises(EnvelopeError) as refused:
        record_of(headers, b"Li Hua")
    assert "Li Hua" not in str(refused.value)


HEADERS: Final = st.dictionaries(st.text("abc_", min_size=1, max_size=4), st.binary(max_size=4), max_size=4).map(
    lambda each: list(each.items())
)


@given(RECORDS, st.randoms())
def test_the_chain_does_not_care_for_the_order_of_headers(record: Record, chance: Random) -> None:
    shuffled = headers_of(record)
    chance.shuffle(shuffled)
    assert chain_hash(CHAIN_START, shuffled, record.payload) == chain_hash(CHAIN_START, headers_of(record), record.payload)


@given(RECORDS, st.binary(min_size=32, max_size=32))
def test_the_chain_leaves_its_own_header_out(record: Record, hashed: bytes) -> None:
    headers = headers_of(record)
    assert chain_hash(hashed, [*headers, ("ce_chainhash", hashed)], record.payload) == chain_hash(hashed, headers, record.payload)


def test_the_chain_changes_with_every_byte() -> None:
    before = chain_hash(CHAIN_START, headers_of(RECORD), RECORD.payload)
    seen = {before}
    tried = 1

    def flipped(raw: bytes) -> list[bytes]:
        return [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw))]

    for payload in flipped(RECORD.payload):
        seen.add(chain_hash(CHAIN_START, headers_of(RECORD), payload))
        tried += 1
    for previous in flipped(CHAIN_START):
        seen.add(chain_hash(previous, headers_of(RECORD), RECORD.payload))
        tried += 1
    for number, (name, value) in enumerate(headers_of(RECORD)):
        others = [pair for at, pair in enumerate(headers_of(RECORD)) if at != number]
        for changed in [*((name, other) for other in flipped(value)), *((other.decode(), value) for other in flipped(name.encode()))]:
            seen.add(chain_hash(CHAIN_START, [*others, changed], RECORD.payload))
            tried += 1
    assert len(seen) == tried


@given(HEADERS, st.binary(max_size=12), HEADERS, st.binary(max_size=12))
def test_two_records_have_one_hash_only_when_they_are_the_same(
    one: list[tuple[str, bytes]], one_payload: bytes, other: list[tuple[str, bytes]], other_payload: bytes
) -> None:
    same = sorted(one) == sorted(other) and one_payload == other_payload
    assert (chain_hash(CHAIN_START, one, one_payload) == chain_hash(CHAIN_START, other, other_payload)) == same


def test_a_header_cannot_hide_in_the_front_of_the_payload() -> None:
    *others, (name, value) = sorted(headers_of(RECORD))
    hidden = len(name).to_bytes(4) + name.encode() + len(value).to_bytes(4) + value + RECORD.payload
    assert chain_hash(CHAIN_START, others, hidden) != chain_hash(CHAIN_START, headers_of(RECORD), RECORD.payload)


def test_the_chain_of_a_known_record_never_changes() -> None:
    """Pinned: a log that was sealed by one version of the code is verified by every later one."""
    assert (
        chain_hash(CHAIN_START, headers_of(RECORD), RECORD.payload).hex()
        == "cf3feb9e62517d2484fb934c9eae18f951a346f7022769f0ef13581358b552c2"
    )
