"""Two ciphers behind one interface: each opens what it sealed, refuses what was changed, and neither opens the other's."""

import os

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shared.privacy.ciphers import ALGORITHMS, ID_OF, NONCE_BYTES, Aead

KEY, NONCE = os.urandom(32), os.urandom(NONCE_BYTES)
EACH = pytest.mark.parametrize("cipher", [pytest.param(make(KEY), id=name) for name, make in ALGORITHMS.items()])


@EACH
def test_a_cipher_opens_what_it_sealed_and_nothing_that_was_changed(cipher: Aead) -> None:
    sealed = cipher.encrypt(NONCE, "赵大山".encode(), b"place")
    assert cipher.decrypt(NONCE, sealed, b"place").decode() == "赵大山"
    assert len(sealed) == len("赵大山".encode()) + 16
    flipped = bytes([sealed[0] ^ 1]) + sealed[1:]
    for nonce, text, place in (
        (NONCE, flipped, b"place"),
        (NONCE, sealed, b"other"),
        (os.urandom(12), sealed, b"place"),
        (NONCE, b"x", b""),
    ):
        with pytest.raises(InvalidTag):
            cipher.decrypt(nonce, text, place)


def test_neither_opens_the_others() -> None:
    aes, sm4 = (make(KEY) for make in ALGORITHMS.values())
    with pytest.raises(InvalidTag):
        sm4.decrypt(NONCE, aes.encrypt(NONCE, b"x", b""), b"")


def test_sm4_gcm_is_that_of_rfc_8998() -> None:
    """Its test vector (appendix A.1), by the same calls with which we seal."""
    key, nonce = bytes.fromhex("0123456789abcdeffedcba9876543210"), bytes.fromhex("00001234567800000000abcd")
    clear = bytes.fromhex(
        "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccddddddddddddddddeeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa"
    )
    encryptor = Cipher(algorithms.SM4(key), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"))
    assert encryptor.update(clear)[:8] == bytes.fromhex("17f399f08c67d5ee")
    encryptor.finalize()
    assert encryptor.tag == bytes.fromhex("83de3541e4c2b58177e065a9bf7b62ec")


def test_the_ids_in_envelopes_are_for_ever() -> None:
    assert ID_OF == {"aes-256-gcm": "a1", "sm4-gcm": "s1"}
    assert ALGORITHMS.keys() == set(ID_OF.values())
