"""The AsyncAPI 3.0 document of a service, from the topic map and the event models: what it sends, and what it receives and why."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from shared.contracts.event import Event, personal_fields
from shared.contracts.topics import EVENTS, SUBSCRIPTIONS, TOPICS

Json = dict[str, Any]

_HEADER_TEXTS: Final[Mapping[str, str]] = {
    "ce_specversion": "CloudEvents version, 1.0",
    "ce_id": "event id",
    "ce_source": "/leifeng/<service>",
    "ce_type": "type of the event",
    "ce_subject": "stream, category-uuid",
    "ce_time": "business time, UTC",
    "ce_dataschema": "urn of the payload's schema",
    "content-type": "application/json",
    "ce_partitionkey": "key of the record",
    "ce_logid": "id of the log",
    "ce_sequence": "position in the log, dense, 20 digits",
    "ce_streamversion": "version in the stream, dense",
    "ce_schemaversion": "version of the payload's schema",
    "ce_commandid": "command that made it",
    "ce_correlationid": "what belongs together",
    "ce_actor": "role and id of who asked",
    "ce_chainhash": "SHA-256 chain over the log, hexadecimal",
}
_OPTIONAL_HEADERS: Final[Mapping[str, str]] = {"ce_causationid": "event that caused it", "traceparent": "W3C trace context"}


def asyncapi(service: str, version: str, title: str, *, topic_prefix: str = "") -> Json:
    """The document of one service: JSON only, no try-it-out."""
    received = [each for each in SUBSCRIPTIONS if each.consumer.partition(".")[0] == service]
    own = {event.TYPE for event in EVENTS if _owner(event) == service}
    used = {service: set(own)}
    for subscription in received:
        used.setdefault(subscription.source, set()).update(subscription.types)
    events = {event.TYPE: event for event in EVENTS if event.TYPE in set().union(*used.values())}
    ordered = [events[name] for name in sorted(events)]
    refs, top = models_json_schema([(event, "serialization") for event in ordered], ref_template="#/components/schemas/{model}")
    operations: Json = {
        "publish_events": _operation("send", f"{service}.events", sorted(own), "中继按位置发布 / the relay publishes in order of position"),
        "publish_heads": _operation(
            "send", f"{service}.heads", ["heads"], "每几秒一次的心跳 / head, sealed and published position, every few seconds"
        ),
    }
    for subscription in received:
        name = f"{subscription.consumer.partition('.')[2]}_reads_{subscription.source}"
        said = f"消费者 {subscription.consumer} / consumer {subscription.consumer}; other types are ignored by declaration"
        operations[name] = _operation("receive", f"{subscription.source}.events", sorted(subscription.types), said)
        operations.setdefault(
            f"follow_{subscription.source}_heads",
            _operation("receive", f"{subscription.source}.heads", ["heads"], "滞后与丢失 / lag, silence and loss"),
        )
    channels = {f"{source}.events": _channel(f"{source}.events", sorted(types), topic_prefix) for source, types in sorted(used.items())}
    channels |= {f"{source}.heads": _channel(f"{source}.heads", ["heads"], topic_prefix) for source in sorted(used)}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"leifeng {service} · {title}",
            "version": version,
            "description": "CloudEvents 1.0 on Kafka, binary mode; one topic with one partition for each service, kept for ever.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {"heads": _heads(), **{event.TYPE: _message(event, refs[event, "serialization"]) for event in ordered}},
            "schemas": {"Headers": _headers(), **top.get("$defs", {})},
        },
    }


def _owner(event: type[Event]) -> str:
    return event.TYPE.partition(".")[0]


def _channel(topic: str, messages: list[str], prefix: str) -> Json:
    return {
        "address": f"{prefix}{topic}",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "kafka": {"topic": f"{prefix}{topic}", "partitions": 1, "topicConfiguration": _configuration(topic), "bindingVersion": "0.5.0"}
        },
    }


def _configuration(topic: str) -> Json:
    config = TOPICS[topic].config
    made: Json = {"cleanup.policy": [config["cleanup.policy"]]}
    made |= {name: int(config[name]) for name in ("retention.ms", "retention.bytes", "max.message.bytes") if name in config}
    return made


def _operation(action: str, channel: str, messages: list[str], summary: str) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


def _message(event: type[Event], payload: Json) -> Json:
    said = " ".join((event.__doc__ or event.TYPE).split())
    sealed = sorted(personal_fields(event))
    return {
        "name": event.TYPE,
        "title": event.TYPE,
        "summary": said,
        "description": f"Schema version {event.VERSION}." + (f" Sealed for one person: {', '.join(sealed)}." if sealed else ""),
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/Headers"},
        "payload": payload,
        "bindings": {"kafka": {"key": {"type": "string", "description": "the partition key"}, "bindingVersion": "0.5.0"}},
    }


def _heads() -> Json:
    whole = {"type": "integer", "minimum": 0}
    return {
        "name": "heads",
        "title": "heads",
        "summary": "日志的最新位置 / where a log stands",
        "contentType": "application/json",
        "payload": {
            "type": "object",
            "properties": {
                "log_id": {"type": "string", "format": "uuid"},
                "head": whole,
                "sealed": whole,
                "published": whole,
                "chain_hash": {"type": "string"},
                "time": {"type": "string", "format": "date-time"},
                "figures": {
                    "description": "本服务在该位置的核对数 / what the owner counted of its log at a position, to be compared",
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "properties": {"position": whole, "total": {"type": "integer"}, "digest": {"type": "integer"}},
                    },
                },
                "reads": {
                    "description": "个人信息查阅记录链的末端 / how far the chain of reads of personal data goes, and its hash",
                    "type": ["object", "null"],
                    "properties": {"number": whole, "hash": {"type": "string"}},
                },
            },
        },
    }


def _headers() -> Json:
    described = {**_HEADER_TEXTS, **_OPTIONAL_HEADERS}
    return {
        "type": "object",
        "required": list(_HEADER_TEXTS),
        "properties": {name: {"type": "string", "description": said} for name, said in described.items()},
    }
