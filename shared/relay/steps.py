"""What the relay and its read-back decide, without any IO: the same values in, the same step out."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from uuid import UUID

from shared.envelope import CHAIN_START, Headers, Record, chain_hash, headers_of
from shared.errors import InvariantError


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain: a position and the hash after its event."""

    position: int
    hash: bytes


START: Final = Link(0, CHAIN_START)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event as it goes to Kafka; `link` is its own place in the chain."""

    link: Link
    key: bytes
    headers: Headers
    value: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it lies in the topic. Nothing in it is trusted. `time_ms` is since 1970, when it was published."""

    offset: int
    headers: Sequence[tuple[str, bytes | None]]
    value: bytes | None
    key: bytes | None = None
    time_ms: int = 0


class Verdict(Enum):
    """What a record of the topic is to a reader that stands at some link."""

    NEXT = auto()
    REPEATED = auto()
    LATER = auto()
    CHANGED = auto()
    FOREIGN = auto()


class Step(Enum):
    """What the relay does next."""

    WAIT_FOR_RECOVERY = auto()
    READ_TAIL = auto()
    REPUBLISH = auto()
    PUBLISH = auto()
    SEAL = auto()
    REST = auto()


@dataclass(frozen=True, slots=True)
class Seen:
    """What the store says: the log's state, its last position, its last seal."""

    state: str
    head: int
    sealed: Link


@dataclass(frozen=True, slots=True)
class Tail:
    """What the topic's last records say of themselves, see `tail_of`."""

    linked: Link | None
    loose: tuple[Link, ...]
    foreign: int


def next_step(seen: Seen, published: Link | None, hole: Link | None) -> Step:
    """`published` is None until the topic's tail is known; `hole` is the last link before something that is missing in the topic."""
    if seen.state == "recovering":
        return Step.WAIT_FOR_RECOVERY
    if published is None:
        return Step.READ_TAIL
    if hole is not None:
        return Step.REPUBLISH
    if published.position < seen.sealed.position:
        return Step.PUBLISH
    return Step.SEAL if seen.sealed.position < seen.head else Step.REST


def chained(after: Link, records: Sequence[Record]) -> list[Outgoing]:
    """The records as they go out. Raises InvariantError when they do not follow `after` without a gap."""
    page: list[Outgoing] = []
    for record in records:
        if record.position != after.position + 1:
            raise InvariantError(f"position {record.position} stands after {after.position} in the store")
        headers = headers_of(record)
        after = Link(record.position, chain_hash(after.hash, headers, record.payload))
        headers.append(("ce_chainhash", after.hash.hex().encode()))
        page.append(Outgoing(after, record.partition_key.encode(), headers, record.payload))
    return page


def as_sealed(page: Sequence[Outgoing], seals: Sequence[Link]) -> Sequence[Outgoing]:
    """The page up to the last seal in it, if there is one. Raises InvariantError when an event is not what was sealed."""
    if not page or not seals:
        return page
    first = page[0].link.position
    for seal in seals:
        if page[seal.position - first].link != seal:
            raise InvariantError(f"the store's events up to {seal.position} are not those that were sealed")
    return page[: seals[-1].position - first + 1]


def said_by(log_id: UUID, record: Found) -> Link | None:
    """The place in the chain that a record claims, None when it is none of this log."""
    headers = {name: value for name, value in record.headers if value is not None}
    if len(headers) != len(record.headers) or record.value is None:  # A null or a doubled header.
        return None
    try:
        if UUID(headers["ce_logid"].decode()) != log_id:
            return None
        return Link(int(headers["ce_sequence"]), bytes.fromhex(headers["ce_chainhash"].decode()))
    except (KeyError, ValueError):  # UnicodeDecodeError is a ValueError.
        return None


def follows(before: Link, record: Found, said: Link) -> bool:
    """Whether a record that claims `said` is what comes after `before`, byte for byte."""
    headers = [(name, value) for name, value in record.headers if value is not None]
    return said.position == before.position + 1 and chain_hash(before.hash, headers, record.value or b"") == said.hash


def judge(before: Link, log_id: UUID, record: Found) -> tuple[Verdict, Link]:
    """What the record is to a reader at `before`, and where the reader stands after it."""
    said = said_by(log_id, record)
    if said is None:
        return Verdict.FOREIGN, before
    if said.position <= before.position:
        return Verdict.REPEATED, before
    if said.position > before.position + 1:
        return Verdict.LATER, before
    return (Verdict.NEXT, said) if follows(before, record, said) else (Verdict.CHANGED, before)


def tail_of(log_id: UUID, records: Sequence[Found]) -> Tail:
    """The highest record that follows another one of the tail (or begins the log), those that follow none, and how many are foreign.

    A record that follows none is the first of the tail, or was put there by somebody else; the store decides.
    """
    known: dict[int, Link] = {0: START}
    linked: Link | None = None
    loose: list[Link] = []
    foreign = 0
    for record in records:
        said = said_by(log_id, record)
        if said is None:
            foreign += 1
            continue
        before = known.get(said.position - 1)
        if before is not None and follows(before, record, said):
            linked = said if linked is None or said.position > linked.position else linked
        else:
            loose.append(said)
            if said.position in known or said.position == 1:
                continue
        known[said.position] = said
    return Tail(linked, tuple(sorted(loose, key=lambda link: link.position, reverse=True)), foreign)
