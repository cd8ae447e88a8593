"""A key file holds one key or several, is read again while a process runs, and what must outlive a key outlives it."""

import hmac
import os
from hashlib import sha256
from pathlib import Path

import pytest

from shared import followed as reading
from shared.privacy import keyfile
from shared.privacy.keyfile import KeyFile, name_of, parse_ring, read_ring, ring_of, write_ring
from shared.settings import SettingsError

KEY = os.urandom(32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "key"
    made.write_text(KEY.hex() + "\n")
    made.chmod(0o600)
    return made


def test_a_key_is_64_hexadecimal_digits_in_a_file_that_others_cannot_read(file: Path) -> None:
    assert read_ring(file).keys == (KEY,)
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_ring(file)
    file.chmod(0o600)
    for text in ("ab" * 16, "xy" * 32, "", f"{KEY.hex()}\n{KEY.hex()}", f"index {KEY.hex()}", f"other {KEY.hex()}\n{KEY.hex()}"):
        file.write_text(text)
        with pytest.raises(SettingsError):
            read_ring(file)


def test_the_blind_index_and_fingerprints_stay_when_the_key_they_came_from_is_gone(file: Path) -> None:
    first = read_ring(file)
    assert first.index_key == hmac.digest(KEY, b"leifeng blind index", sha256), "what stands in databases is found again"
    second = first.with_new()
    write_ring(file, keyfile.KeyRing(second.keys[:1], second.index_key, second.fingerprint_key))
    last = read_ring(file)
    assert last.current != KEY
    assert (last.index_key, last.fingerprint_key) == (first.index_key, first.fingerprint_key)
    assert KEY.hex() not in file.read_text()


def test_what_is_written_is_read_and_for_its_owner_only(file: Path) -> None:
    ring = ring_of(KEY).with_new()
    write_ring(file, ring)
    assert read_ring(file) == ring
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["key"]


def test_no_key_is_in_what_is_shown_of_a_ring() -> None:
    ring = ring_of(KEY).with_new()
    assert not any(each.hex() in repr(ring) for each in (*ring.keys, ring.index_key, ring.fingerprint_key))
    assert name_of(KEY) in repr(ring)


def test_a_changed_file_is_read_again_and_a_broken_one_leaves_the_keys_as_they_were(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "REREAD_SECONDS", 0.0)
    followed = KeyFile(file)
    ring = followed.ring.with_new()
    write_ring(file, ring)
    assert followed.ring == ring
    file.write_text("broken")
    assert followed.ring == ring
    file.unlink()
    assert followed.ring == ring
    write_ring(file, parse_ring(KEY.hex()))
    assert followed.ring.current == KEY
