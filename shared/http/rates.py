"""How often one address and one person may ask: a bucket for each, which fills again by itself, and 429 for who has emptied theirs.

In memory and for each process: replicas each let through as much. That bounds what one caller takes from all others; it is no billing.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache
from ipaddress import ip_network
from math import ceil
from time import monotonic
from typing import Final
from uuid import UUID

from starlette.types import Scope

from shared.http.problems import ProblemError
from shared.networks import Address, address_of, is_within

BUCKETS_MAX: Final = 50_000
"""Callers that are remembered; of more, who has not asked for longest begins anew."""

FREE: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""What orchestrators and Prometheus ask, however often."""


class Proxies:
    """The networks of those before us, who say in X-Forwarded-For for whom they ask. What anybody else says there counts for nothing."""

    def __init__(self, networks: tuple[str, ...] = ()) -> None:
        """Raises ValueError for a network that is none."""
        self._networks = tuple(ip_network(each) for each in networks)

    def source_of(self, scope: Scope) -> Address | None:
        """From where a request comes: the nearest address that is none of our proxies; None where nobody says one."""
        source = address_of((scope.get("client") or ("", 0))[0])
        said = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        for each in reversed([part.strip() for value in said for part in value.split(",")]):
            if source is None or not is_within(source, self._networks):
                break
            source = address_of(each)
        return source


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
    """The buckets of a process, and from where requests come to it. `proxies` are the networks of those before us."""

    def __init__(self, *, per_address: int = 0, per_person: int = 0, proxies: tuple[str, ...] = ()) -> None:
        """Raises ValueError for a network that is none."""
        self._addresses = Buckets(per_address)
        self._persons = Buckets(per_person)
        self._proxies = Proxies(proxies)

    def address(self, scope: Scope) -> None:
        """A request has come. Raises ProblemError `too_many_requests`."""
        if scope["path"] not in FREE:
            _refuse(self._addresses.take(self.address_of(scope)))

    def person(self, person_id: UUID) -> None:
        """Somebody who is known has asked. Raises ProblemError `too_many_requests`."""
        _refuse(self._persons.take(person_id))

    def source_of(self, scope: Scope) -> Address | None:
        """From where a request comes; None where nobody says it."""
        return self._proxies.source_of(scope)

    def address_of(self, scope: Scope) -> str:
        """Whose bucket a request is taken from: an IPv6 address counts by its /64."""
        found = self.source_of(scope)
        return "" if found is None else _counted_as(found)


@lru_cache(maxsize=1000)
def _counted_as(address: Address) -> str:
    return str(address) if address.version == 4 else str(ip_network((address, 64), strict=False))


def _refuse(wait_seconds: int) -> None:
    if wait_seconds:
        raise ProblemError("too_many_requests", retry_after_seconds=wait_seconds)
