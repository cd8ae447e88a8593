"""Devices at a unit's door, as the services know them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.networks import Network


@dataclass(frozen=True, slots=True)
class Device:
    """A device that registration has given a key: whose it is, until when the key counts, and from where.

    A key of before networks were asked for has none, and counts from anywhere.
    """

    device_id: UUID
    unit: str
    expires_at: datetime
    is_revoked: bool = False
    networks: tuple[Network, ...] = ()
