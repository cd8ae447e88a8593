"""A secret in a file is read anew, never shown, and refused when it is open to everybody."""

from pathlib import Path

import pytest

from shared.followed import Followed, secret_file
from shared.postgres import _address
from shared.settings import SettingsError, read_secret


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "password"
    made.touch(mode=0o600)
    made.write_text("hush-first\n")
    return made


def test_what_replaces_it_is_read_the_next_time(file: Path) -> None:
    said = secret_file(file)
    assert said.look() == "hush-first"
    file.write_text("hush-second\n")
    assert said.look() == "hush-second"
    assert "hush" not in repr(said) + str(said) + repr(said.look)


@pytest.mark.parametrize("spoil", [lambda file: file.unlink(), lambda file: file.chmod(0o644), lambda file: file.write_bytes(b"\xff")])
def test_one_that_is_broken_meanwhile_leaves_the_last_word_and_is_refused_at_the_start(file: Path, spoil: object) -> None:
    said = Followed(file, read_secret, SettingsError)
    spoil(file)  # type: ignore[operator]
    assert said.look() == "hush-first"
    with pytest.raises(SettingsError, match=r"^password (is open|cannot be read)"):
        secret_file(file)


def test_a_databases_address_gives_the_file_to_the_driver_and_keeps_what_it_says_else(file: Path) -> None:
    address = _address(f"postgresql://hours@db/hours?sslmode=verify-full&password_file={file}&application_name=a+b")
    assert address["dsn"] == "postgresql://hours@db/hours?sslmode=verify-full&application_name=a+b"
    assert address["password"]() == "hush-first"
    assert "hush" not in repr(address)
    assert _address("postgresql://hours:secret@db/hours") == {"dsn": "postgresql://hours:secret@db/hours"}
