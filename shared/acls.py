"""The rights of `shared/contracts/rights.py` in a cluster: as lines for Kafka's own tool, given and taken away, and held against what is.

The cluster's administrator gives them; a service can only ask what it may do itself. aiokafka (0.14) has requests for it and no calls.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError, TopicAuthorizationFailedError, for_code
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

from shared.contracts.rights import OPERATIONS, PRINCIPALS, RIGHTS, Kind, may
from shared.contracts.topics import SERVICES, TOPICS
from shared.credentials import RightMissingError
from shared.kafka import admin_client, topic_name
from shared.settings import Servers

_ANY: Final = 1
_ALLOW: Final = 3
_EVERY_HOST: Final = "*"
_KINDS: Final = {"any": 1, "topic": 2, "group": 3, "cluster": 4, "transactional-id": 5, "delegation-token": 6, "user": 7}
_PATTERNS: Final = {"literal": 3, "prefixed": 4}
_OPERATIONS: Final = {
    "ALL": 2, "READ": 3, "WRITE": 4, "CREATE": 5, "DELETE": 6, "ALTER": 7, "DESCRIBE": 8, "CLUSTER_ACTION": 9, "DESCRIBE_CONFIGS": 10,
    "ALTER_CONFIGS": 11, "IDEMPOTENT_WRITE": 12, "CREATE_TOKENS": 13, "DESCRIBE_TOKENS": 14, "TWO_PHASE_COMMIT": 15,
}  # fmt: skip
_TOOL: Final = 'kafka-acls.sh --bootstrap-server "$KAFKA_SERVERS" --command-config admin.properties --add'


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """One entry as the cluster keeps it: `user` may do `operation` with a resource, from every host. Names are those in the cluster."""

    user: str
    kind: str
    name: str
    pattern: str
    operation: str

    def __str__(self) -> str:
        return f"{self.user} {self.operation} {self.kind} {self.name}{'*' if self.pattern == 'prefixed' else ''}"


def wanted(prefix: str) -> frozenset[Acl]:
    """The entries that an installation needs."""
    return frozenset(
        Acl(user_of(prefix, each.principal), each.kind, topic_name(prefix, each.name), _pattern(is_prefix=each.is_prefix), each.operation)
        for each in RIGHTS
    )


def user_of(prefix: str, principal: str) -> str:
    """The user's name in Kafka: the installation's prefix stands before it."""
    return f"{prefix}{principal}"


def tool_lines(prefix: str) -> Iterator[str]:
    """The same as lines for `kafka-acls.sh`."""
    entries = sorted(wanted(prefix))
    for (user, kind, name, pattern), its in groupby(entries, lambda each: (each.user, each.kind, each.name, each.pattern)):
        operations = " ".join(f"--operation {''.join(map(str.title, each.operation.split('_')))}" for each in its)
        yield f"{_TOOL} --allow-principal 'User:{user}' {operations} --{kind} '{name}' --resource-pattern-type {pattern}"


@dataclass(frozen=True, slots=True)
class Applied:
    """What was given, what was taken away, and what others may do with our topics and groups: that is left as it is."""

    given: Sequence[Acl]
    taken: Sequence[Acl]
    others: Sequence[Acl]


async def apply(servers: Servers, prefix: str) -> Applied:
    """Gives our users what they need and takes away what else they have; nobody else's entries are changed. May be run again.

    Raises RightMissingError where this user may not change rights, and LOST_ERRORS.
    """
    need = wanted(prefix)
    ours = {each.user for each in need} | {user_of(prefix, each) for each in PRINCIPALS}
    async with admin_client(servers) as admin:
        found = await _found(admin)
        given = sorted(need - found)
        taken = sorted(each for each in found - need if each.user in ours)
        for each in given:
            await give(admin, each)
        for each in taken:
            await take(admin, each)
    return Applied(given, taken, sorted(each for each in found if each.user not in ours and _concerns(each, prefix)))


async def give(admin: Any, entry: Acl) -> None:
    """Adds one entry."""
    answer = await admin._send_request(CreateAclsRequest(*_codes(entry)))  # noqa: SLF001
    _succeeded(code for code, _ in answer.creation_responses)


async def take(admin: Any, entry: Acl) -> None:
    """Removes one entry."""
    answer = await admin._send_request(DeleteAclsRequest(*_codes(entry)))  # noqa: SLF001
    _succeeded(code for code, *_ in answer.filter_responses)


async def _found(admin: Any) -> frozenset[Acl]:
    answer = await admin._send_request(DescribeAclsRequest(_KINDS["any"], None, _ANY, None, None, _ANY, _ANY))  # noqa: SLF001
    _succeeded([answer.error_code])
    kinds, patterns, operations = ({code: name for name, code in each.items()} for each in (_KINDS, _PATTERNS, _OPERATIONS))
    return frozenset(
        Acl(principal.removeprefix("User:"), kinds[kind], name, patterns[pattern], operations[operation])
        for kind, name, pattern, entries in answer.resources
        for principal, host, operation, permission in entries
        if permission == _ALLOW and host == _EVERY_HOST
    )


def _concerns(entry: Acl, prefix: str) -> bool:
    names = [topic_name(prefix, each) for each in (TOPICS if entry.kind == "topic" else [f"{service}." for service in SERVICES])]
    if entry.kind not in OPERATIONS:
        return entry.kind == "cluster"
    return entry.name == "*" or any(
        each.startswith(entry.name) if entry.pattern == "prefixed" else entry.name.startswith(each) for each in names
    )


def _pattern(*, is_prefix: bool) -> str:
    return "prefixed" if is_prefix else "literal"


def _codes(entry: Acl) -> tuple[int, str, int, str, str, int, int]:
    kind, pattern, operation = _KINDS[entry.kind], _PATTERNS[entry.pattern], _OPERATIONS[entry.operation]
    return kind, entry.name, pattern, f"User:{entry.user}", _EVERY_HOST, operation, _ALLOW


def _succeeded(codes: Iterable[int]) -> None:
    for error in (for_code(code) for code in codes if code != 0):
        if error.__name__ == "ClusterAuthorizationFailedError":
            raise RightMissingError("this user may not see or change rights: do it as the cluster's administrator")
        if error.__name__ == "SecurityDisabledError":
            raise RightMissingError("this cluster knows no rights: its brokers have no authorizer (deploy/kafka)")
        raise error


# -- what a service may do, as it finds out itself


class _MetadataResponse(Response):
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8")))),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32), ("replicas", Array(Int32)),
                        ("isr", Array(Int32)), ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )  # fmt: skip


class _MetadataRequest(RequestStruct):
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _Metadata(Request[_MetadataRequest]):
    """All topics that may be seen, or those named; what may be done with each of them, and with the cluster."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str] | None) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequest]) -> _MetadataRequest:
        return request_struct_class(self._topics, False, True, True)


class _GroupsResponse(Response):
    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String("utf-8")),
                ("state", String("utf-8")),
                ("protocol_type", String("utf-8")),
                ("protocol", String("utf-8")),
                (
                    "members",
                    Array(
                        ("member_id", String("utf-8")), ("client_id", String("utf-8")), ("client_host", String("utf-8")),
                        ("member_metadata", Bytes), ("member_assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )  # fmt: skip


class _GroupsRequest(RequestStruct):
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = _GroupsResponse
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class _Groups(Request[_GroupsRequest]):
    """One group, and what may be done with it."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_GroupsRequest]) -> _GroupsRequest:
        return request_struct_class([self._group], True)


async def differences(servers: Servers, prefix: str, principal: str) -> Sequence[str]:
    """In what the rights of the user that asks are not those of `principal`: one sentence each, what lacks first. Raises LOST_ERRORS.

    A topic that is not there says nothing of rights. Whoever may not describe the cluster is not told what else it may do with it.
    """
    less, more = list[str](), list[str]()

    def compare(kind: Kind, name: str, held: frozenset[str]) -> None:
        need = may(principal, kind, name.removeprefix(prefix)) if name.startswith(prefix) else frozenset()
        if need - held:
            less.append(f"may not {', '.join(sorted(need - held))} {kind} {name}")
        if held - need:
            more.append(f"may {', '.join(sorted(held - need))} {kind} {name}")

    async with admin_client(servers) as admin:
        answer = await admin._send_request(_Metadata(None))  # noqa: SLF001
        seen = {name: _operations(bits) for _, name, _, _, bits in answer.topics}
        for name, may_do in sorted(seen.items()):
            compare("topic", name, may_do)
        hidden = [name for each in TOPICS if (name := topic_name(prefix, each)) not in seen and may(principal, "topic", each)]
        if hidden:
            named = await admin._send_request(_Metadata(hidden))  # noqa: SLF001
            for code, name, *_ in named.topics:
                if for_code(code) is TopicAuthorizationFailedError:
                    compare("topic", name, frozenset())
        for service in SERVICES:
            group = topic_name(prefix, f"{service}.views")
            if (held := await _group(admin, group)) is not None:
                compare("group", group, held)
    if cluster := _operations(answer.cluster_authorized_operations):
        more.append(f"may {', '.join(sorted(cluster))} the cluster")
    return [*less, *more]


async def _group(admin: Any, group: str) -> frozenset[str] | None:
    """What may be done with a group; None on a fresh cluster, which has nobody yet who knows of groups."""
    try:
        node = await admin.find_coordinator(group)
    except GroupAuthorizationFailedError:
        return frozenset()
    except GroupCoordinatorNotAvailableError:
        return None
    ((_, _, _, _, _, _, bits),) = (await admin._send_request(_Groups(group), node)).groups  # noqa: SLF001
    return _operations(bits)


def _operations(bits: int) -> frozenset[str]:
    """The names of the bits; none when the cluster did not say (the lowest number there is)."""
    return frozenset(name for name, code in _OPERATIONS.items() if bits > 0 and bits >> code & 1)
