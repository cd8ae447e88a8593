"""The harness's own reader of a topic."""

from uuid import UUID, uuid4

from tests.faults.tap import START, Headers, Tap, next_hash

Record = tuple[list[tuple[str, bytes]], bytes]


def records(count: int) -> list[Record]:
    """A chained log."""
    previous, made = START, list[Record]()
    for position in range(1, count + 1):
        headers = [("ce_sequence", b"%d" % position), ("ce_id", str(UUID(int=position)).encode())]
        value = b"value %d" % position
        previous = next_hash(previous, headers, value)
        made.append(([*headers, ("ce_chainhash", previous.hex().encode())], value))
    return made


def read(*some: tuple[Headers, bytes]) -> Tap:
    tap = Tap("hours")
    for headers, value in some:
        tap.take(headers, value)
    return tap


def test_a_whole_log_is_taken_in_order() -> None:
    tap = read(*records(5))
    assert tap.position == 5
    assert tap.events[4] == (UUID(int=5), b"value 5")
    assert not tap.seen


def test_repeats_are_dropped_and_a_changed_repeat_is_told_apart() -> None:
    one, two = records(2)
    tap = read(one, two, one, (two[0], b"other"))
    assert tap.position == 2
    assert tap.seen == {"repeated": 1, "changed": 1}


def test_nothing_is_taken_over_a_hole_and_all_of_it_once_it_is_filled() -> None:
    one, two, three = records(3)
    tap = read(one, three)
    assert (tap.position, tap.lacks) == (1, True)
    for each in (two, three):
        tap.take(*each)
    assert (tap.position, tap.lacks) == (3, False)


def test_what_is_off_the_chain_is_not_taken() -> None:
    one, two = records(2)
    flipped = bytes([two[1][0] ^ 1]) + two[1][1:]
    tap = read(one, (two[0], flipped), ([*two[0], ("ce_actor", b"nobody")], two[1]))
    assert tap.position == 1
    assert tap.seen == {"off the chain": 2}
    tap.take(*two)
    assert tap.position == 2


def test_foreign_records_are_passed_over() -> None:
    (one,) = records(1)
    tap = read(([], b""), ([("ce_sequence", b"x")], b""), ([("ce_sequence", b"1"), ("ce_id", b"\xff"), ("ce_chainhash", b"")], b""), one)
    assert tap.position == 1
    assert tap.seen == {"foreign": 3}
    tap.take([("ce_sequence", b"2"), ("ce_id", str(uuid4()).encode()), ("ce_chainhash", b"00")], None)
    assert tap.position == 1
