"""Who may do what on Kafka, as data that follows from topics and subscriptions: one principal for each service, and one that makes topics.

A service writes its own topics, reads them back, and reads the logs that it subscribes to; its groups are for lag tools. Nobody alters or
deletes a topic: what exists stays as it was made, and who means to do so is an administrator of the cluster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from shared.contracts.topics import SERVICES, SUBSCRIPTIONS, TOPICS

CREATOR: Final = "creator"
"""Makes topics: `migrate` and, after the loss of Kafka's data, `recover` run as this user."""

PRINCIPALS: Final = (*SERVICES, CREATOR)
"""Everybody who is given rights; with the installation's prefix before it, the name is that of the user in Kafka."""

Kind = Literal["topic", "group"]
Operation = Literal["READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE", "DESCRIBE_CONFIGS", "ALTER_CONFIGS"]

OPERATIONS: Final[dict[Kind, tuple[Operation, ...]]] = {
    "topic": ("READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE", "DESCRIBE_CONFIGS", "ALTER_CONFIGS"),
    "group": ("READ", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS", "ALTER_CONFIGS"),
}
"""What can be done with a topic or a group at all."""

_IMPLIED: Final[dict[Operation, frozenset[Operation]]] = {
    "READ": frozenset({"DESCRIBE"}),
    "WRITE": frozenset({"DESCRIBE"}),
    "DELETE": frozenset({"DESCRIBE"}),
    "ALTER": frozenset({"DESCRIBE"}),
    "ALTER_CONFIGS": frozenset({"DESCRIBE_CONFIGS"}),
}
"""What Kafka lets those do as well who may do this."""


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """`principal` may do `operation` with the topic or group `name`, or with every group whose name begins so (`is_prefix`).

    Names are without the installation's prefix.
    """

    principal: str
    kind: Kind
    name: str
    operation: Operation
    is_prefix: bool = False


def _rights() -> Iterator[Right]:
    for topic in TOPICS.values():
        yield Right(topic.owner, "topic", topic.name, "WRITE")
        yield Right(topic.owner, "topic", topic.name, "READ")  # The relay reads back, and finds out where it goes on.
        yield Right(topic.owner, "topic", topic.name, "DESCRIBE_CONFIGS")  # Held against the declaration at every start.
        for operation in ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS"):
            yield Right(CREATOR, "topic", topic.name, operation)
    for each in SUBSCRIPTIONS:
        reader = each.consumer.partition(".")[0]
        for what in ("events", "heads"):
            yield Right(reader, "topic", f"{each.source}.{what}", "READ")
    for service in SERVICES:
        yield Right(service, "group", f"{service}.", "READ", is_prefix=True)


RIGHTS: Final = frozenset(_rights())
"""All that anybody needs, and all that anybody may."""


def may(principal: str, kind: Kind, name: str) -> frozenset[Operation]:
    """What a principal may do with one topic or group, what Kafka takes as implied included; nothing where nothing is said."""
    given = {
        each.operation
        for each in RIGHTS
        if (each.principal, each.kind) == (principal, kind) and (name.startswith(each.name) if each.is_prefix else name == each.name)
    }
    return frozenset(given).union(*(_IMPLIED.get(each, frozenset[Operation]()) for each in given))
