"""A device is known by the digest of its key, for ninety days and until the key is revoked."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from uuid import UUID

from services.registration.domain.device import Device, DeviceEvent, IssueDeviceKey, RevokeDeviceKey, decide, evolve
from shared.contracts.registration import DeviceKeyIssued, DeviceKeyRevoked
from tests.unit.registration.people import BUREAU_ADMIN, STRANGE_ADMIN, UNIT, UNIT_ADMIN, code_of, events_of

NOW = datetime(2017, 3, 1, 9, tzinfo=UTC)
WHICH = UUID(int=0xD1)
ISSUE = IssueDeviceKey(
    WHICH, UNIT_ADMIN, UNIT, is_unit_known=True, name="大厅签到机", key_digest="a" * 64, networks=("10.20.0.0/16",), now=NOW
)
REVOKE = RevokeDeviceKey(WHICH, UNIT_ADMIN, "lost")
ISSUED = DeviceKeyIssued(
    device_id=WHICH,
    unit_code=UNIT,
    name="大厅签到机",
    key_digest="a" * 64,
    expires_at=NOW + timedelta(days=90),
    networks=("10.20.0.0/16",),
)
REVOKED = DeviceKeyRevoked(device_id=WHICH, unit_code=UNIT, reason_code="lost")


def after(*events: DeviceEvent) -> Device:
    return reduce(evolve, events, Device())


def test_a_key_counts_for_ninety_days() -> None:
    assert events_of(decide(after(), ISSUE)) == [ISSUED]
    assert events_of(decide(after(ISSUED), ISSUE)) == []


def test_a_key_that_is_revoked_stays_so() -> None:
    assert events_of(decide(after(ISSUED), REVOKE)) == [REVOKED]
    assert events_of(decide(after(ISSUED, REVOKED), REVOKE)) == []
    assert events_of(decide(after(ISSUED, REVOKED), ISSUE)) == [], "not even by the first command, said again"


def test_a_unit_has_its_own_devices_and_the_bureau_all() -> None:
    assert code_of(decide(after(), replace(ISSUE, asker=STRANGE_ADMIN))) == "wrong_unit"
    assert code_of(decide(after(ISSUED), replace(REVOKE, asker=STRANGE_ADMIN))) == "wrong_unit"
    assert events_of(decide(after(ISSUED), replace(REVOKE, asker=BUREAU_ADMIN))) == [REVOKED]


def test_what_is_not_there_gets_no_key_and_loses_none() -> None:
    assert code_of(decide(after(), replace(ISSUE, is_unit_known=False))) == "unit_unknown"
    assert code_of(decide(after(), REVOKE)) == "device_unknown"
