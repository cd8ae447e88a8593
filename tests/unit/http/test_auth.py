"""Which tokens are believed."""

import base64
import hmac
import json
import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey

from shared import followed
from shared.http import auth
from shared.http.auth import Authenticator, Caller, own_issuer
from shared.http.problems import ProblemError
from shared.permissions import Role

ISSUER = "issuer-of-the-tests"
PERSON = UUID("0197f3a4-5c00-7000-8000-000000000001")
NOW = 1_800_000_000

Sign = Callable[..., str]


@pytest.fixture(scope="module")
def key() -> ECKey:
    return ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256", "kid": "one"}, private=True)


@pytest.fixture
def keys_file(tmp_path: Path, key: ECKey) -> Path:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    return file


@pytest.fixture
def authenticator(keys_file: Path) -> Authenticator:
    return Authenticator(own_issuer(keys_file, ISSUER), now=lambda: NOW)


CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": "leifeng",
    "sub": str(PERSON),
    "role": "unit_admin",
    "unit": "water-saving-office",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 900,
}
HEADER: dict[str, Any] = {"typ": "at+jwt", "alg": "ES256", "kid": "one"}


def signed(key: ECKey | OKPKey, header: dict[str, Any] | None = None, **claims: Any) -> str:
    said = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not ...}
    return jwt.encode({**HEADER, **(header or {})}, said, key, algorithms=["ES256", "EdDSA", "Ed25519"])


def refused(authenticator: Authenticator, header: str | None) -> str:
    with pytest.raises(ProblemError) as caught:
        authenticator.caller(header)
    return caught.value.code


def by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes = b"") -> str:
    """A token made without a library, so that nothing refuses to make it."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    said = b".".join(parts)
    mark = base64.urlsafe_b64encode(hmac.digest(secret, said, sha256)).rstrip(b"=") if secret else b""
    return (said + b"." + mark).decode()


def test_a_token_names_a_person_and_as_what_they_ask(authenticator: Authenticator, key: ECKey) -> None:
    assert authenticator.caller(f"Bearer {signed(key)}") == Caller(PERSON, Role.UNIT_ADMIN, "water-saving-office")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "bearer"])
def test_without_a_token_nobody_asks(authenticator: Authenticator, header: str | None) -> None:
    assert refused(authenticator, header) == "token_missing"


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"aud": "another"}, "token_invalid"),
        ({"aud": ["leifeng", "another"]}, "token_invalid"),
        ({"aud": ...}, "token_invalid"),
        ({"iss": "another"}, "token_invalid"),
        ({"sub": "not-a-uuid"}, "token_invalid"),
        ({"sub": ...}, "token_invalid"),
        ({"role": "emperor"}, "token_invalid"),
        ({"role": "system"}, "token_invalid"),
        ({"role": "public"}, "token_invalid"),
        ({"role": ["unit_admin"]}, "token_invalid"),
        ({"unit": ["water-saving-office"]}, "token_invalid"),
        ({"unit": "x" * 101}, "token_invalid"),
        ({"unit": ""}, "token_invalid"),
        ({"unit": ...}, "token_invalid"),
        ({"exp": ...}, "token_invalid"),
        ({"exp": "soon"}, "token_invalid"),
        ({"exp": True}, "token_invalid"),
        ({"exp": float("nan")}, "token_invalid"),
        ({"iat": ...}, "token_invalid"),
        ({"exp": NOW + 901}, "token_invalid"),
        ({"iat": NOW - 2000, "exp": NOW - 1500, "nbf": NOW - 2000}, "token_expired"),
        ({"nbf": NOW + 600}, "token_expired"),
        ({"iat": NOW + 600, "exp": NOW + 900}, "token_expired"),
    ],
)
def test_a_token_with_a_wrong_claim_is_not_believed(authenticator: Authenticator, key: ECKey, claims: dict[str, Any], code: str) -> None:
    assert refused(authenticator, f"Bearer {signed(key, **claims)}") == code


@pytest.mark.parametrize("header", [{"typ": "JWT"}, {"kid": "two"}])
def test_a_token_with_a_wrong_header_is_not_believed(authenticator: Authenticator, key: ECKey, header: dict[str, Any]) -> None:
    assert refused(authenticator, f"Bearer {signed(key, header)}") == "token_invalid"


def test_an_unsigned_token_is_not_believed(authenticator: Authenticator) -> None:
    assert refused(authenticator, "Bearer " + by_hand({"typ": "at+jwt", "alg": "none"}, CLAIMS)) == "token_invalid"


def test_a_token_signed_with_the_public_key_as_a_shared_secret_is_not_believed(authenticator: Authenticator, key: ECKey) -> None:
    for secret in (key.as_pem(private=False), json.dumps(key.as_dict(private=False)).encode()):
        header = {"typ": "at+jwt", "alg": "HS256", "kid": "one"}
        assert refused(authenticator, "Bearer " + by_hand(header, CLAIMS, secret)) == "token_invalid"


@pytest.mark.parametrize("critical", [{"crit": ["b64"], "b64": True}, {"crit": []}, {"crit": ["x"], "x": 1}])
def test_a_critical_header_is_refused_even_when_the_signature_is_right(
    authenticator: Authenticator, key: ECKey, critical: dict[str, Any]
) -> None:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({**HEADER, **critical}, CLAIMS)]
    private = load_pem_private_key(key.as_pem(private=True), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(private.sign(b".".join(parts), ec.ECDSA(hashes.SHA256())))
    parts.append(base64.urlsafe_b64encode(r.to_bytes(32) + s.to_bytes(32)).rstrip(b"="))
    token = b".".join(parts).decode()
    assert refused(authenticator, f"Bearer {token}") == "token_invalid"


def test_a_key_that_the_token_brings_along_is_not_asked(authenticator: Authenticator) -> None:
    own = ECKey.generate_key("P-256", {"kid": "one"}, private=True)
    brought = {"jwk": own.as_dict(private=False)}
    assert refused(authenticator, f"Bearer {signed(own, brought)}") == "token_invalid"


def test_a_token_over_eight_kibibytes_is_refused_unread(authenticator: Authenticator) -> None:
    assert refused(authenticator, "Bearer " + "a" * 8193) == "token_too_large"


@pytest.mark.parametrize("token", ["a", "a.b", "a.b.c", "é.é.é", "....", "W10.W10.W10", "e30." + "x" * 4000 + ".e30"])
def test_noise_is_no_token(authenticator: Authenticator, token: str) -> None:
    assert refused(authenticator, f"Bearer {token}") == "token_invalid"


def test_an_edwards_key_counts_as_well(tmp_path: Path) -> None:
    key = OKPKey.generate_key("Ed25519", {"kid": "ed"}, private=True)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    token = signed(key, {"alg": "Ed25519", "kid": "ed"})
    assert Authenticator(own_issuer(file, ISSUER), now=lambda: NOW).caller(f"Bearer {token}").person_id == PERSON


def test_a_rotated_key_counts_without_a_restart_and_a_broken_file_changes_nothing(
    authenticator: Authenticator, keys_file: Path, key: ECKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "REREAD_SECONDS", 0.0)
    keys_file.write_text("not json")
    assert authenticator.caller(f"Bearer {signed(key)}").person_id == PERSON
    fresh = ECKey.generate_key("P-256", {"kid": "two"}, private=True)
    keys_file.write_text(json.dumps({"keys": [fresh.as_dict(private=False)]}))
    assert authenticator.caller(f"Bearer {signed(fresh, {'kid': 'two'})}").person_id == PERSON
    assert refused(authenticator, f"Bearer {signed(key)}") == "token_invalid"


def test_time_is_the_machines(keys_file: Path, key: ECKey) -> None:
    past = signed(key, iat=int(time.time()) - 2000, exp=int(time.time()) - 1200)
    assert refused(Authenticator(own_issuer(keys_file, ISSUER)), f"Bearer {past}") == "token_expired"


def test_a_token_that_is_known_is_refused_once_its_time_is_over(keys_file: Path, key: ECKey) -> None:
    now = float(NOW)
    authenticator = Authenticator(own_issuer(keys_file, ISSUER), now=lambda: now)
    header = f"Bearer {signed(key)}"
    assert authenticator.caller(header) == authenticator.caller(header)
    now = NOW + 900 + auth.LEEWAY_SECONDS + 1
    assert refused(authenticator, header) == "token_expired"


def test_a_token_that_is_known_is_refused_once_its_key_was_taken_out(
    authenticator: Authenticator, keys_file: Path, key: ECKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "REREAD_SECONDS", -1.0)
    header = f"Bearer {signed(key)}"
    authenticator.caller(header)
    other = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256", "kid": "two"}, private=True)
    keys_file.write_text(json.dumps({"keys": [other.as_dict(private=False)]}))
    os.utime(keys_file, ns=(1, 1))
    assert refused(authenticator, header) == "token_invalid"


def test_only_so_many_tokens_are_remembered_and_one_of_another_signature_is_none_of_them(
    authenticator: Authenticator, key: ECKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "TOKENS_KEPT_MAX", 2)
    tokens = [signed(key, unit=unit) for unit in ("one", "two", "three")]
    assert [authenticator.caller(f"Bearer {token}").unit for token in (*tokens, *tokens)] == ["one", "two", "three"] * 2
    assert len(authenticator._known) == 2
    head, claims, _ = tokens[2].split(".")
    assert refused(authenticator, f"Bearer {head}.{claims}.{tokens[1].split('.')[2]}") == "token_invalid"
