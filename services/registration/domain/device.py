"""Device: a machine at a door, such as a kiosk, and the key by which the services know it. No clock, no IO.

The device makes its own key, 256 random bits, and gives out only the digest: so no log, answer or backup ever holds what opens the door.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, assert_never
from uuid import UUID

from shared.contracts.event import Refusal
from shared.contracts.registration import DeviceKeyIssued, DeviceKeyRevoked, DeviceLoss
from shared.permissions import Actor, Resource, barred

KEY_LIFETIME: Final = timedelta(days=90)

DeviceEvent = DeviceKeyIssued | DeviceKeyRevoked


@dataclass(frozen=True, slots=True)
class Device:
    """Whose device it is, None before it has a key, and whether the key was revoked."""

    unit_code: str | None = None
    is_revoked: bool = False


@dataclass(frozen=True, slots=True)
class IssueDeviceKey:
    """A key for a device of a unit, known by its digest; it counts from these networks."""

    device_id: UUID
    asker: Actor
    unit_code: str
    is_unit_known: bool
    name: str
    key_digest: str
    networks: tuple[str, ...]
    now: datetime


@dataclass(frozen=True, slots=True)
class RevokeDeviceKey:
    """The key opens nothing any more."""

    device_id: UUID
    asker: Actor
    reason: DeviceLoss


def decide(device: Device, command: IssueDeviceKey | RevokeDeviceKey) -> Sequence[DeviceEvent] | Refusal:
    """A device has one key in its life: a new key makes a new device, so that what was done with which key stays clear."""
    match command:
        case IssueDeviceKey():
            refused = barred(command.asker, Resource(unit=command.unit_code))
            if refused is not None:
                return refused
            if not command.is_unit_known:
                return Refusal("unit_unknown")
            if device.unit_code is not None:
                return []
            return [
                DeviceKeyIssued(
                    device_id=command.device_id,
                    unit_code=command.unit_code,
                    name=command.name,
                    key_digest=command.key_digest,
                    expires_at=command.now + KEY_LIFETIME,
                    networks=command.networks,
                )
            ]
        case RevokeDeviceKey(device_id, asker, reason):
            if device.unit_code is None:
                return Refusal("device_unknown")
            refused = barred(asker, Resource(unit=device.unit_code))
            if refused is not None:
                return refused
            return [] if device.is_revoked else [DeviceKeyRevoked(device_id=device_id, unit_code=device.unit_code, reason_code=reason)]
        case _:
            assert_never(command)


def evolve(_device: Device, event: DeviceEvent) -> Device:
    """The fold of the stream."""
    match event:
        case DeviceKeyIssued(unit_code=unit_code):
            return Device(unit_code)
        case DeviceKeyRevoked(unit_code=unit_code):
            return Device(unit_code, is_revoked=True)
        case _:
            assert_never(event)
