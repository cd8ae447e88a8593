"""What the local stack tells the services is what they understand."""

import os
from pathlib import Path

import pytest

from deploy.local.environment import ISSUER, SERVICES, read_ports, service_environment
from deploy.local.keys import Keys, issue_token, person_id
from shared.http.auth import Authenticator, Caller, own_issuer
from shared.permissions import Role
from shared.privacy.keyfile import read_ring
from shared.settings import Settings, read_settings


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_reads_every_setting_that_the_stack_gives_and_needs_no_other(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = service_environment(service, read_ports({}), Keys(tmp_path))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(service)
    assert read_ring(settings.key_file).current == bytes.fromhex(settings.key_file.read_text())
    assert settings.siblings.keys() == set(SERVICES) - {service}
    assert {name.removeprefix(f"{service.upper()}_").lower() for name in given} <= Settings.model_fields.keys()


def test_a_token_of_the_local_issuer_opens_the_door_for_its_person_role_and_unit(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    token = issue_token(keys, ISSUER, person=person_id("leader"), role="activity_leader", unit="U-01")
    caller = Authenticator(own_issuer(keys.issuer_public_file, ISSUER)).caller(f"Bearer {token}")
    assert caller == Caller(person_id("leader"), Role.ACTIVITY_LEADER, "U-01")


def test_secrets_are_made_once(tmp_path: Path) -> None:
    first, again = Keys(tmp_path), Keys(tmp_path)
    assert first.admin_password() == again.admin_password() != first.database_password("hours")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]  # noqa: PTH208  # Nothing half-made is left.
