"""Who somebody is comes from their token; as what they may act is looked up."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.datastructures import Headers

from shared.http.auth import Authenticator, own_issuer
from shared.http.door import Door, Roles
from shared.http.problems import ProblemError
from shared.permissions import Actor, Role

PERSON: Final = UUID("0197f3a4-5c00-7000-8000-000000000001")
HOME: Final = "water-saving-office"
ADMINS: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN})
ALL: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN, Role.VOLUNTEER})

Ask = Callable[..., Any]


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

    async def asked(held: Roles | LookUp, roles: frozenset[Role] = ALL, acting_as: str | None = None, **claims: Any) -> Actor | str:
        now = int(time.time())
        said = {"iss": "issuer", "aud": "leifeng", "sub": str(PERSON), "iat": now, "exp": now + 60, **claims}
        token = jwt.encode({"typ": "at+jwt", "alg": "ES256", "kid": "one"}, said, key, algorithms=["ES256"])
        headers = {"authorization": f"Bearer {token}", **({"acting-as": acting_as} if acting_as is not None else {})}
        look_up = held if isinstance(held, LookUp) else LookUp(held)
        try:
            return await Door(authenticator, look_up).actor(Headers(headers), roles)
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


async def test_a_role_that_may_not_is_turned_away_before_anything_is_looked_up(ask: Ask) -> None:
    look_up = LookUp({("kiosk", HOME): True})
    assert await ask(look_up, role="kiosk", unit=HOME) == "role_not_allowed"
    assert look_up.asked == 0


async def test_a_role_that_this_version_does_not_know_is_passed_over(ask: Ask) -> None:
    assert await ask({("emperor", HOME): True, ("unit_admin", HOME): True}) == Actor(PERSON, Role.UNIT_ADMIN, HOME)
