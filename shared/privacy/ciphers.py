"""The ciphers that may stand in an envelope, behind one interface: what is sealed names its algorithm, so several can be read at once.

Every cipher takes a key of 32 bytes, a nonce of 96 bits and associated data, and refuses what was changed.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SM3
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16

CipherName = Literal["aes-256-gcm", "sm4-gcm"]


class Aead(Protocol):
    """A cipher with its key. `decrypt` raises cryptography's InvalidTag."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """The ciphertext, the tag behind it."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """The clear bytes."""


class Sm4Gcm:
    """SM4-GCM (GB/T 32907, RFC 8998) under 128 bits that HKDF with SM3 (GB/T 32905) takes from a key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = algorithms.SM4(HKDF(algorithm=SM3(), length=16, salt=None, info=b"leifeng sm4-gcm").derive(key))

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """The ciphertext, the tag behind it."""
        encryptor = Cipher(self._key, modes.GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(associated_data)
        return encryptor.update(data) + encryptor.finalize() + encryptor.tag

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """The clear bytes. Raises InvalidTag."""
        if len(data) < _TAG_BYTES:
            raise InvalidTag
        decryptor = Cipher(self._key, modes.GCM(nonce, data[-_TAG_BYTES:])).decryptor()
        decryptor.authenticate_additional_data(associated_data)
        return decryptor.update(data[:-_TAG_BYTES]) + decryptor.finalize()


ALGORITHMS: Final[Mapping[str, Callable[[bytes], Aead]]] = {"a1": AESGCM, "s1": Sm4Gcm}
"""By the id in an envelope. An id is never given to anything else, and never taken away: what is in a log stays."""

ID_OF: Final[Mapping[CipherName, str]] = {"aes-256-gcm": "a1", "sm4-gcm": "s1"}
"""By the name in the settings, what new texts and keys are sealed with."""
