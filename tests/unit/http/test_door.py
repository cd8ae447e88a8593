"""Who somebody is comes from their token; as what they may act is looked up."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.datastructures import Headers
from structlog.testing import capture_logs

from shared.http.auth import Authenticator, own_issuer
from shared.http.devices import Device
from shared.http.door import DEVICE_KEY_CHARACTERS, Door, Roles
from shared.http.problems import ProblemError
from shared.http.rates import Rates
from shared.permissions import Actor, Role

PERSON: Final = UUID("0197f3a4-5c00-7000-8000-000000000001")
HOME: Final = "water-saving-office"
ADMINS: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN})
ALL: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.VOLUNTEER})

Ask = Callable[..., Any]


KEY: Final = "lfd_" + "k" * 43
NOW: Final = datetime(2017, 3, 5, 9, tzinfo=UTC)
KIOSK: Final = Device(UUID("0197f3a4-5c00-7000-8000-0000000000d1"), HOME, NOW + timedelta(seconds=1))


class Devices:
    """What registration has said of one device, by the digest of its key."""

    def __init__(self) -> None:
        self.device: Device | None = KIOSK

    async def __call__(self, key_digest: str) -> Device | None:
        return self.device if key_digest == sha256(KEY.encode()).hexdigest() else None


DEVICES: Final = Devices()


async def now_() -> datetime:
    return NOW


class LookUp:
    """What was granted, and how often it was asked."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self.asked = 0

    async def __call__(self, person_id: UUID) -> Roles:
        self.asked += 1
        return self.roles if person_id == PERSON else {}


@pytest.fixture(scope="module")
def key() -> ECKey:
    return ECKey.generate_key("P-256", {"kid": "one"}, private=True)


@pytest.fixture
def authenticator(tmp_path: Path, key: ECKey) -> Authenticator:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    return Authenticator(own_issuer(file, "issuer"))


@pytest.fixture
def ask(key: ECKey, authenticator: Authenticator) -> Ask:
    """What somebody is let in as, or the code they are turned away with."""

    async def asked(held: Roles | LookUp, may: frozenset[Role] = ALL, acting_as: str | None = None, **claims: Any) -> Actor | str:
        now = int(time.time())
        said = {"iss": "issuer", "aud": "leifeng", "sub": str(PERSON), "iat": now, "exp": now + 60, **claims}
        token = jwt.encode({"typ": "at+jwt", "alg": "ES256", "kid": "one"}, said, key, algorithms=["ES256"])
        headers = {"authorization": f"Bearer {token}", **({"acting-as": acting_as} if acting_as is not None else {})}
        look_up = held if isinstance(held, LookUp) else LookUp(held)
        try:
            return await Door(authenticator, look_up, DEVICES, now_).actor(Headers(headers), may)
        except ProblemError as problem:
            return problem.code

    return asked


async def test_a_role_in_a_token_counts_only_while_it_is_held(ask: Ask) -> None:
    said = {"role": "unit_admin", "unit": HOME}
    assert await ask({("unit_admin", HOME): True}, **said) == Actor(PERSON, Role.UNIT_ADMIN, HOME)
    assert await ask({("unit_admin", HOME): False}, **said) == "role_withdrawn"
    assert await ask({}, **said) == "role_not_held"
    assert await ask({("unit_admin", "another-office"): True}, **said) == "role_not_held"
    assert await ask({("bureau_admin", HOME): True}, **said) == "role_not_held"


async def test_whoever_is_known_is_a_volunteer_of_no_unit_that_anybody_has_looked_up(ask: Ask) -> None:
    assert await ask({}) == Actor(PERSON, Role.VOLUNTEER, "")
    assert await ask({}, role="volunteer", unit=HOME) == Actor(PERSON, Role.VOLUNTEER, "")
    assert await ask({}, ADMINS) == "role_not_allowed"


async def test_without_a_word_the_role_that_reaches_furthest_counts_and_two_alike_must_be_told_apart(ask: Ask) -> None:
    held = {("unit_admin", HOME): True, ("bureau_admin", "water-bureau"): True, ("bureau_admin", "old-bureau"): False}
    assert await ask(held) == Actor(PERSON, Role.BUREAU_ADMIN, "water-bureau")
    assert await ask(held, frozenset({Role.UNIT_ADMIN, Role.VOLUNTEER})) == Actor(PERSON, Role.UNIT_ADMIN, HOME)
    two = {("unit_admin", HOME): True, ("unit_admin", "another-office"): True}
    assert await ask(two) == "role_ambiguous"
    assert await ask(two, acting_as="unit_admin@another-office") == Actor(PERSON, Role.UNIT_ADMIN, "another-office")


async def test_acting_as_chooses_among_what_is_held_and_gives_nothing(ask: Ask) -> None:
    held = {("unit_admin", HOME): True}
    assert await ask(held, acting_as=f"volunteer@{HOME}") == Actor(PERSON, Role.VOLUNTEER, "")
    assert await ask(held, acting_as=f"bureau_admin@{HOME}") == "role_not_held"
    assert await ask(held, acting_as=f"unit_admin@{HOME}", role="bureau_admin", unit=HOME) == Actor(PERSON, Role.UNIT_ADMIN, HOME)
    for wrong in ("", "unit_admin", "unit_admin@", f"emperor@{HOME}", f"system@{HOME}", f"public@{HOME}", "unit_admin@" + "x" * 101):
        assert await ask(held, acting_as=wrong) == "acting_as_invalid", wrong


async def test_a_token_that_says_what_was_held_lets_nothing_else_count(ask: Ask) -> None:
    held = {("unit_admin", HOME): True, ("bureau_admin", "water-bureau"): True}
    assert await ask(held, roles=[f"unit_admin@{HOME}"]) == Actor(PERSON, Role.UNIT_ADMIN, HOME)
    assert await ask(held, acting_as="bureau_admin@water-bureau", roles=[f"unit_admin@{HOME}"]) == "role_not_held"
    assert await ask({("unit_admin", HOME): False}, acting_as=f"unit_admin@{HOME}", roles=[f"unit_admin@{HOME}"]) == "role_withdrawn"
    assert await ask(held, ADMINS, roles=[]) == "role_not_allowed"
    assert await ask(held, ADMINS, roles=7) == "token_invalid"


async def test_a_role_that_may_not_is_turned_away_before_anything_is_looked_up(ask: Ask) -> None:
    look_up = LookUp({("kiosk", HOME): True})
    assert await ask(look_up, role="kiosk", unit=HOME) == "role_not_allowed"
    assert look_up.asked == 0


async def test_a_role_that_this_version_does_not_know_is_passed_over(ask: Ask) -> None:
    assert await ask({("emperor", HOME): True, ("unit_admin", HOME): True}) == Actor(PERSON, Role.UNIT_ADMIN, HOME)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (KIOSK, Actor(KIOSK.device_id, Role.KIOSK, HOME)),
        (replace(KIOSK, expires_at=NOW), "device_key_expired"),
        (replace(KIOSK, is_revoked=True), "device_key_revoked"),
        (None, "device_key_unknown"),
    ],
)
async def test_a_device_is_a_kiosk_of_its_unit_while_its_key_counts(
    authenticator: Authenticator, device: Device | None, expected: Actor | str
) -> None:
    devices = Devices()
    devices.device = device
    door = Door(authenticator, LookUp({}), devices, now_)
    try:
        found: Actor | str = await door.actor(Headers({"authorization": f"Bearer {KEY}"}), frozenset({Role.KIOSK, Role.UNIT_ADMIN}))
    except ProblemError as problem:
        found = problem.code
    assert found == expected


FIXED: Final = replace(KIOSK, networks=(ip_network("192.0.2.0/24"), ip_network("2001:db8:1::/48")))
PROXIES: Final = ("10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("client", "forwarded", "is_let_in"),
    [
        ("192.0.2.7", [], True),
        ("192.0.3.7", [], False),
        ("2001:db8:1:2::9", [], True),
        ("2001:db8:2::9", [], False),
        ("::ffff:192.0.2.7", [], True),
        (None, [], False),
        # Whoever is no proxy of ours says of themself what they like.
        ("198.51.100.9", ["192.0.2.7"], False),
        ("192.0.2.7", ["198.51.100.9"], True),
        # A proxy of ours says who asked it, and what they said before it is theirs.
        ("10.0.0.1", ["192.0.2.7"], True),
        ("10.0.0.1", ["198.51.100.9"], False),
        ("10.0.0.1", ["192.0.2.7, 198.51.100.9"], False),
        ("10.0.0.1", ["192.0.2.7", "198.51.100.9, 10.0.0.2"], False),
        ("10.0.0.1", ["198.51.100.9, 192.0.2.7, 10.0.0.2"], True),
        ("fd00::1", ["2001:db8:1::5"], True),
        ("fd00::1", ["2001:db8:2::5"], False),
        ("10.0.0.1", [], False),
        ("10.0.0.1", ["192.0.2.7:4711"], False),
        ("10.0.0.1", ["unknown"], False),
    ],
)
async def test_a_device_s_key_counts_from_its_networks_only(
    authenticator: Authenticator, client: str | None, forwarded: list[str], is_let_in: bool
) -> None:
    devices = Devices()
    devices.device = FIXED
    said = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    source = Rates(proxies=PROXIES).source_of({"client": (client, 1) if client else None, "headers": said, "path": "/"})
    asking = Door(authenticator, LookUp({}), devices, now_).actor(
        Headers({"authorization": f"Bearer {KEY}"}), frozenset({Role.KIOSK}), source
    )
    if is_let_in:
        assert await asking == Actor(KIOSK.device_id, Role.KIOSK, HOME)
        return
    with pytest.raises(ProblemError) as caught:
        await asking
    assert caught.value.code == "device_elsewhere"


async def test_a_key_that_moved_is_said_in_the_log_by_its_device(authenticator: Authenticator) -> None:
    devices = Devices()
    devices.device = FIXED
    with capture_logs() as said, pytest.raises(ProblemError):
        await Door(authenticator, LookUp({}), devices, now_).actor(Headers({"authorization": f"Bearer {KEY}"}), frozenset({Role.KIOSK}))
    assert said == [{"event": "device_elsewhere", "log_level": "warning", "device": str(KIOSK.device_id), "unit": HOME}]


@pytest.mark.parametrize(
    ("authorization", "roles", "code"),
    [
        (f"Bearer {KEY}", ADMINS, "role_not_allowed"),
        (f"Bearer {KEY[:-1]}", frozenset({Role.KIOSK}), "device_key_unknown"),
        (f"Bearer {KEY}k", frozenset({Role.KIOSK}), "device_key_unknown"),
        (f"Basic {KEY}", frozenset({Role.KIOSK}), "token_missing"),
        (f"Bearer {KEY[4:]}", frozenset({Role.KIOSK}), "token_invalid"),
    ],
)
async def test_a_device_opens_nothing_else(authenticator: Authenticator, authorization: str, roles: frozenset[Role], code: str) -> None:
    assert len(KEY) == DEVICE_KEY_CHARACTERS
    headers = Headers({"authorization": authorization, "acting-as": f"bureau_admin@{HOME}"})
    with pytest.raises(ProblemError) as caught:
        await Door(authenticator, LookUp({}), DEVICES, now_).actor(headers, roles)
    assert caught.value.code == code
