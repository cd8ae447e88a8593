"""How often one address and one person may ask: a bucket for each, which fills again by itself, and 429 for who has emptied theirs.

In memory and for each process: replicas each let through as much. That bounds what one caller takes from all others; it is no billing.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import ip_address, ip_network
from math import ceil
from time import monotonic
from typing import Final
from uuid import UUID

from starlette.types import Scope

from shared.http.problems import ProblemError

BUCKETS_MAX: Final = 50_000
"""Callers that are remembered; of more, who has not asked for longest begins anew."""

FREE: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""What orchestrators and Prometheus ask, however often."""


class Buckets:
    """`per_minute` requests for each key, which may come all at once. 0: as many as they like."""

    def __init__(self, per_minute: int, *, now: Callable[[], float] = monotonic) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60
        self._now = now
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> int:
        """Takes one: 0, or after how many seconds there will be one again."""
        if not self._capacity:
            return 0
        now = self._now()
        left, at = self._left.get(key, (self._capacity, now))
        left = min(left + (now - at) * self._per_second, self._capacity)
        wait = 0 if left >= 1 else ceil(round((1 - left) / self._per_second, 6))
        self._left[key] = (left if wait else left - 1, now)
        self._left.move_to_end(key)
        if len(self._left) > BUCKETS_MAX:
            self._left.popitem(last=False)
        return wait


class Rates:
    """The buckets of a process. `proxies` are the networks of those before us, who say in X-Forwarded-For for whom they ask."""

    def __init__(self, *, per_address: int = 0, per_person: int = 0, proxies: tuple[str, ...] = ()) -> None:
        """Raises ValueError for a network that is none."""
        self._addresses = Buckets(per_address)
        self._persons = Buckets(per_person)
        self._proxies = tuple(ip_network(each) for each in proxies)

    def address(self, scope: Scope) -> None:
        """A request has come. Raises ProblemError `too_many_requests`."""
        if scope["path"] not in FREE:
            _refuse(self._addresses.take(self.address_of(scope)))

    def person(self, person_id: UUID) -> None:
        """Somebody who is known has asked. Raises ProblemError `too_many_requests`."""
        _refuse(self._persons.take(person_id))

    def address_of(self, scope: Scope) -> str:
        """From where a request comes: the nearest address that is none of our proxies. An IPv6 address counts by its /64."""
        address = (scope.get("client") or ("", 0))[0]
        said = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        for each in reversed([part.strip() for value in said for part in value.split(",")]):
            if not self._is_proxy(address):
                break
            address = each
        try:
            found = ip_address(address)
        except ValueError:
            return ""
        return str(found) if found.version == 4 else str(ip_network((found, 64), strict=False))

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in each for each in self._proxies)


def _refuse(wait_seconds: int) -> None:
    if wait_seconds:
        raise ProblemError("too_many_requests", retry_after_seconds=wait_seconds)
