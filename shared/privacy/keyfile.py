"""The file with a service's key-encryption keys, and what follows from it. It is read again when it changes: no process is restarted.

Each line is one key, 64 hexadecimal digits: the first wraps the persons' keys, those after it still open what they have wrapped. Once
there has been more than one, two named lines keep what must outlive any of them: the key of the blind index and that of the fingerprints
of command bodies. They follow from the first key there was, and lead nobody back to it.
"""

import hmac
import os
import secrets
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from shared.followed import Followed
from shared.privacy.ciphers import KEY_BYTES
from shared.settings import SettingsError, check_closed


@dataclass(frozen=True)
class KeyRing:
    """What the file holds. `keys` is never empty: the first wraps, all open."""

    keys: tuple[bytes, ...]
    index_key: bytes
    fingerprint_key: bytes

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(map(name_of, self.keys))})"

    @property
    def current(self) -> bytes:
        """The key that wraps from now on."""
        return self.keys[0]

    @cached_property
    def by_name(self) -> dict[str, bytes]:
        """The keys by what stands beside the keys they have wrapped."""
        return {name_of(each): each for each in self.keys}

    def with_new(self) -> "KeyRing":
        """One with a new random key in front."""
        return replace(self, keys=(secrets.token_bytes(KEY_BYTES), *self.keys))

    def text(self) -> str:
        """The file's content."""
        kept = [f"index {self.index_key.hex()}", f"fingerprint {self.fingerprint_key.hex()}"]
        return "\n".join([*(each.hex() for each in self.keys), *kept]) + "\n"


def name_of(key: bytes) -> str:
    """How a key is called where it may not be shown: a fingerprint of 64 bits, which tells nothing of it."""
    return sha256(b"leifeng key-encryption key" + key).hexdigest()[:16]


def ring_of(key: bytes) -> KeyRing:
    """The ring of a file that has only ever held this key."""
    index_key, fingerprint_key = (hmac.digest(key, purpose, sha256) for purpose in (b"leifeng blind index", b"leifeng fingerprint"))
    return KeyRing((key,), index_key, fingerprint_key)


def parse_ring(text: str) -> KeyRing:
    """What a file's text says. Raises ValueError for anything but keys of the right length, and the named lines where there are several."""
    keys, named = list[bytes](), dict[str, bytes]()
    for line in text.splitlines():
        name, _, digits = line.strip().rpartition(" ")
        key = bytes.fromhex(digits)
        if len(key) != KEY_BYTES or name not in {"", "index", "fingerprint"} or name in named:
            raise ValueError("not a key")
        if name:
            named[name] = key
        else:
            keys.append(key)
    if len(named) == 2 and keys:
        return KeyRing(tuple(keys), named["index"], named["fingerprint"])
    if len(keys) != 1 or named:
        raise ValueError("not the lines of a key file")
    return ring_of(keys[0])


def read_ring(path: Path) -> KeyRing:
    """The keys in `path`, a file that others cannot read. Raises SettingsError."""
    try:
        check_closed(path)
        return parse_ring(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path.name} holds no key, which has {KEY_BYTES} bytes: {type(error).__name__}") from None


def write_ring(path: Path, ring: KeyRing) -> None:
    """Puts a ring in the file's place: whole or not at all, for its owner only. Raises OSError."""
    write_secret(path, ring.text())


def write_secret(path: Path, text: str) -> None:
    """Writes a file for its owner only, whole or not at all, and onto the disk before this returns. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:  # noqa: PTH123  # Closed from the start.
        try:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
            beside.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


class KeyFile:
    """A key file that is followed while a process runs. Raises SettingsError when it cannot be read at the start."""

    def __init__(self, path: Path) -> None:
        self._file = Followed(path, read_ring, SettingsError)

    @property
    def ring(self) -> KeyRing:
        """The keys as the file holds them, seconds old at most."""
        return self._file.current()

    def look(self) -> KeyRing:
        """The keys as the file holds them now. One that is broken, or just being replaced, leaves them as they were."""
        return self._file.look()
