"""Two halves give the key file back; one half, a wrong pair or a slip gives nothing, and says which."""

import os
from datetime import date

import pytest

from shared.privacy.escrow import EscrowError, join, split
from shared.privacy.keyfile import name_of, ring_of

RING = ring_of(os.urandom(32)).with_new()
CUSTODIANS = ("王一", "李二")
FIRST, SECOND = (half.text() for half in split("hours", RING, CUSTODIANS, date(2026, 3, 5)))


def test_two_halves_in_any_order_give_the_key_file_back() -> None:
    assert join("hours", FIRST, SECOND) == join("hours", SECOND, FIRST) == RING


def test_a_half_says_for_whom_and_of_which_key_it_is_and_holds_no_key() -> None:
    for text, custodian in ((FIRST, CUSTODIANS[0]), (SECOND, CUSTODIANS[1])):
        assert f"custodian: {custodian}" in text
        assert f"key: {name_of(RING.current)}" in text
        digits = text.partition("\n\n")[2].replace(" ", "").replace("\n", "")
        assert not any(key.hex() in digits for key in RING.keys)
        assert not any(key.hex().encode().hex() in digits for key in RING.keys)


def test_a_half_is_as_good_as_chance_without_the_other() -> None:
    again = [half.text() for half in split("hours", RING, CUSTODIANS, date(2026, 3, 5))]
    assert FIRST not in again
    with pytest.raises(EscrowError, match="not made together"):
        join("hours", FIRST, again[1])


def test_a_slip_in_typing_is_found_in_the_half_that_has_it() -> None:
    body = SECOND.rindex("\n", 0, -1) + 1
    slip = SECOND[:body] + ("1" if SECOND[body] != "1" else "2") + SECOND[body + 1 :]
    with pytest.raises(EscrowError, match="second half has a slip in its digits"):
        join("hours", FIRST, slip)
    with pytest.raises(EscrowError, match="first half lacks a line"):
        join("hours", FIRST.replace("pair: ", "pear: "), SECOND)
    with pytest.raises(EscrowError, match="first file is no half"):
        join("hours", "", SECOND)


def test_the_same_half_twice_or_of_another_service_is_refused() -> None:
    with pytest.raises(EscrowError, match="same half"):
        join("hours", FIRST, FIRST)
    with pytest.raises(EscrowError, match="is of hours, not of recognition"):
        join("recognition", FIRST, SECOND)
