"""Our own tokens are signed by the key that the file holds now, and opened by those that the other file tells."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from joserfc.jwk import ECKey, OKPKey

from shared import followed
from shared.http.auth import Authenticator, own_issuer
from shared.http.problems import ProblemError
from shared.http.signing import Signer
from shared.privacy.keyfile import write_secret
from shared.settings import SettingsError

ISSUER = "leifeng-test"
PERSON = uuid4()


@pytest.fixture(autouse=True)
def looking_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "REREAD_SECONDS", -1.0)


def tell(file: Path, *keys: ECKey | OKPKey) -> None:
    write_secret(file, json.dumps({"keys": [key.as_dict(private=False) for key in keys]}))


def keep(file: Path, key: ECKey | OKPKey, *, private: bool = True) -> None:
    write_secret(file, json.dumps(key.as_dict(private=private)))


def test_a_new_key_signs_without_a_restart_and_both_count_until_the_old_one_is_withdrawn(tmp_path: Path) -> None:
    private, public = tmp_path / "private.json", tmp_path / "public.json"
    old: Any = ECKey.generate_key("P-256", {"kid": "old"}, private=True)
    new: Any = OKPKey.generate_key("Ed25519", {"kid": "new"}, private=True)
    keep(private, old)
    tell(public, old)
    signer, door = Signer(private, ISSUER), Authenticator(own_issuer(public, ISSUER))
    first = f"Bearer {signer.sign(PERSON, None, ())}"
    tell(public, new, old)
    keep(private, new)
    second = f"Bearer {signer.sign(PERSON, None, ())}"
    assert door.caller(first).person_id == door.caller(second).person_id == PERSON
    tell(public, new)
    assert door.caller(second).person_id == PERSON
    with pytest.raises(ProblemError, match="token_invalid"):
        door.caller(first)


def test_a_file_that_holds_no_signing_key_is_refused_at_the_start_and_leaves_the_key_later(tmp_path: Path) -> None:
    private = tmp_path / "private.json"
    key: Any = ECKey.generate_key("P-256", {"kid": "one"}, private=True)
    keep(private, key, private=False)
    with pytest.raises(SettingsError, match="public key"):
        Signer(private, ISSUER)
    keep(private, key)
    signer = Signer(private, ISSUER)
    for spoilt in ("", "[]", json.dumps(key.as_dict(private=False))):
        write_secret(private, spoilt)
        assert signer.sign(PERSON, None, ())
    private.unlink()
    assert signer.sign(PERSON, None, ())
