"""One caller takes from the others no more than a bucketful."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from shared.http import rates
from shared.http.problems import ProblemError
from shared.http.rates import Buckets, Rates


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def scope(client: str | None, *forwarded: str, path: str = "/api/v1/units") -> dict[str, Any]:
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return {"client": (client, 1) if client else None, "headers": headers, "path": path}


def test_a_bucket_is_emptied_at_once_and_fills_with_time() -> None:
    clock = Clock()
    buckets = Buckets(60, now=clock)
    assert [buckets.take("a") for _ in range(60)] == [0] * 60
    assert (buckets.take("a"), buckets.take("b")) == (1, 0)
    clock.now = 2.0
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 1]
    clock.now = 1000.0
    assert [buckets.take("a") for _ in range(61)] == [0] * 60 + [1]


def test_of_few_a_minute_the_next_is_told_how_long_to_wait() -> None:
    clock = Clock()
    buckets = Buckets(2, now=clock)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 30]
    clock.now = 10.0
    assert buckets.take("a") == 20, "who asks too early waits no longer for it"


def test_nothing_is_counted_where_there_is_no_limit_and_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Buckets(0).take("a") for _ in range(10)] == [0] * 10
    monkeypatch.setattr(rates, "BUCKETS_MAX", 2)
    buckets = Buckets(1, now=Clock())
    assert [buckets.take(each) for each in ("a", "b", "c", "a", "c")] == [0, 0, 0, 0, 60]


def test_an_address_and_a_person_are_counted_apart_and_probes_not_at_all() -> None:
    one = Rates(per_address=1, per_person=1)
    one.address(scope("192.0.2.1"))
    one.address(scope("192.0.2.2"))
    one.person(UUID(int=1))
    one.person(UUID(int=2))
    again: list[Callable[[], None]] = [lambda: one.address(scope("192.0.2.1")), lambda: one.person(UUID(int=1))]
    for ask in again:
        with pytest.raises(ProblemError) as caught:
            ask()
        assert (caught.value.code, caught.value.headers) == ("too_many_requests", {"Retry-After": "60"})
    for path in ("/livez", "/readyz", "/metrics"):
        one.address(scope("192.0.2.1", path=path))


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("192.0.2.1", ["198.51.100.9"], "192.0.2.1"),  # Whoever is no proxy of ours says of themself what they like.
        ("10.0.0.1", ["198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["203.0.113.5, 198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["203.0.113.5", "198.51.100.9, 10.0.0.2"], "198.51.100.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["not an address"], ""),
        ("10.0.0.1", ["2001:db8::1%" + 100 * "a"], ""),
        (None, [], ""),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.9"], "198.51.100.9"),  # A socket that listens for both spells IPv4 so.
    ],
)
def test_behind_our_proxies_who_asked_them_counts(client: str | None, forwarded: list[str], address: str) -> None:
    assert Rates(proxies=("10.0.0.0/8",)).address_of(scope(client, *forwarded)) == address


def test_a_network_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="ten"):
        Rates(proxies=("ten",))
