"""The OpenAPI document of a service, from the same tables as its routes: commands, queries, problems (OpenAPI 3.1)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from shared.application import UseCase
from shared.audit import RevealReason
from shared.contracts.event import Event
from shared.http.api import Api
from shared.http.body import BodyLimits
from shared.http.commands import limits_of
from shared.http.disclosures import COPY_PATH, COPY_ROLES, REVEAL_PATH, REVEAL_ROLES, XLSX
from shared.http.door import ROLE_CODES
from shared.http.personal import Disclosing
from shared.http.problems import MEDIA_TYPE, RETRY_AFTER_SECONDS, Catalogue
from shared.http.query import PAGE_ROWS, PAGE_ROWS_MAX, Column, Kind, Query
from shared.http.reads import AUDIT_ROLES

Json = dict[str, Any]

_BODY_CODES: Final = (
    "body_too_large", "body_too_slow", "content_type_unsupported", "body_not_utf8", "json_malformed", "json_duplicate_key",
    "json_number_not_finite", "json_integer_too_large", "json_too_deep", "json_array_too_long", "text_has_nul", "text_has_lone_surrogate",
    "field_unknown", "field_missing", "field_wrong_type", "field_wrong_value",
)  # fmt: skip
_TOKEN_CODES: Final = (
    "token_missing", "token_too_large", "token_invalid", "token_expired", "device_key_unknown", "device_key_expired", "device_key_revoked",
    "device_elsewhere", "acting_as_invalid", *sorted(ROLE_CODES),
)  # fmt: skip
_COMMAND_CODES: Final = (
    *_BODY_CODES, *_TOKEN_CODES, "idempotency_key_missing", "idempotency_key_invalid", "idempotency_key_reused", "if_match_invalid",
    "version_stale", "correlation_id_invalid", "after_invalid", "after_foreign_log", "not_caught_up", "id_invalid", "parameter_unknown",
    "stream_conflict", "event_too_large", "too_many_requests", "internal_error", "store_unavailable", "log_closed",
)  # fmt: skip
_READ_CODES: Final = (
    *_TOKEN_CODES, "too_many_requests", "correlation_id_invalid", "parameter_unknown", "parameter_repeated", "parameter_invalid",
    "internal_error", "store_unavailable",
)  # fmt: skip
_QUERY_CODES: Final = (*_READ_CODES, "after_invalid", "after_foreign_log", "not_caught_up", "cursor_invalid")

_SAMPLE_UUID: Final = "0197f3a4-5c00-7000-8000-000000000001"
_SAMPLE_LOG: Final = "0197f3a4-5c00-7000-8000-0000000000aa"

_KINDS: Final[Mapping[Kind, Json]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "uuid": {"type": "string", "format": "uuid"},
    "date": {"type": "string", "format": "date"},
    "instant": {"type": "string", "format": "date-time"},
}


def openapi(api: Api, catalogue: Catalogue, disclosing: Disclosing | None = None) -> Json:
    """The whole document. It is a function of the tables, so it cannot lag behind the routes."""
    open_to_http = [each for each in api.use_cases if each.path is not None]
    bodies, schemas = _bodies({each.body for each in open_to_http})
    paths: Json = {}
    for use_case in open_to_http:
        paths.setdefault(f"/api/v1{use_case.path}", {})["post"] = _command(
            use_case, bodies[use_case.body], schemas, limits_of(api, use_case), catalogue
        )
    for query in api.queries:
        paths.setdefault(f"/api/v1{query.path}", {})["get"] = _query(query, catalogue)
    paths["/api/v1/streams/{stream}/events"] = {"get": _events_of_a_stream(catalogue)}
    paths["/api/v1/events"] = {"get": _events_of_the_log(catalogue)}
    if disclosing is not None:
        if disclosing.data.fields:
            paths[f"/api/v1{REVEAL_PATH}"] = {"post": _reveal(disclosing.data.fields, catalogue)}
        paths[f"/api/v1{COPY_PATH}"] = {"get": _copy(catalogue)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"leifeng {api.service} · {api.title_zh}",
            "version": api.version,
            "description": (
                f"{api.title_en}. Every command needs an `Idempotency-Key`; a repeat gets the first answer. Every answer carries position "
                "tokens; send one back in `After` to read what you wrote. 每个命令都需要 `Idempotency-Key`, 重复的请求得到第一次的答复。"
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "commands", "description": "命令 / commands"},
            {"name": "queries", "description": "查询 / queries"},
            {"name": "events", "description": "事件 / the events behind a figure"},
            {"name": "personal data", "description": "个人信息 / personal data in the clear; each read is written down"},
        ],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT (typ at+jwt, aud leifeng, 15 minutes at most)"}
            },
            "parameters": _parameters(),
            "headers": _headers(),
            "schemas": {**schemas, **_schemas(catalogue)},
        },
    }


def _reveal(fields: Sequence[str], catalogue: Catalogue) -> Json:
    said = {"type": "object", "properties": {name: {"type": ["string", "null"]} for name in fields}}
    answer = {
        "type": "object",
        "required": ["volunteer_id", "noted_as", "fields"],
        "properties": {"volunteer_id": _KINDS["uuid"], "noted_as": {"type": "integer"}, "fields": said},
    }
    body = {
        "type": "object",
        "additionalProperties": False,
        "required": ["fields", "reason"],
        "properties": {
            "fields": {"type": "array", "minItems": 1, "maxItems": 20, "items": {"enum": list(fields)}},
            "reason": {"enum": list(get_args(RevealReason))},
        },
    }
    return {
        "operationId": "reveal",
        "tags": ["personal data"],
        "summary": "查看个人信息原文, 须说明理由并留痕 / One person's fields in the clear, for a reason; the read is written down",
        "description": _roles(REVEAL_ROLES),
        "parameters": [*_path_parameters(REVEAL_PATH), *(_parameter(name) for name in ("CorrelationId", "Traceparent"))],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "example": {"fields": [fields[0]], "reason": "identity_check"}}},
        },
        "responses": {
            "200": {"description": "原文 / in the clear", "content": {"application/json": {"schema": answer}}},
            **_problems((*_BODY_CODES, *_READ_CODES, "id_invalid", "volunteer_unknown", "wrong_unit", "not_own_record"), catalogue),
        },
    }


def _copy(catalogue: Catalogue) -> Json:
    answer = {
        "type": "object",
        "required": ["volunteer_id", "fields", "tables"],
        "properties": {"volunteer_id": _KINDS["uuid"], "fields": {"type": "object"}, "tables": {"type": "object"}},
    }
    form = {"name": "format", "in": "query", "schema": {"enum": ["json", "xlsx"], "default": "json"}, "description": "JSON, or Excel"}
    return {
        "operationId": "copy",
        "tags": ["personal data"],
        "summary": "本人信息副本 / Everything this service holds of a person, for that person (PIPL art. 45)",
        "description": _roles(COPY_ROLES),
        "parameters": [*_path_parameters(COPY_PATH), form, *(_parameter(name) for name in ("CorrelationId", "Traceparent"))],
        "responses": {
            "200": {"description": "副本 / the copy", "content": {"application/json": {"schema": answer}, XLSX: {}}},
            **_problems((*_READ_CODES, "id_invalid"), catalogue),
        },
    }


def event_schema(event: type[Event]) -> Json:
    """The JSON Schema (2020-12) of one event as it is stored and published. Personal fields hold sealed text."""
    schema = event.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:leifeng:schema:{event.TYPE}:{event.VERSION}",
        **schema,
        "title": event.TYPE,
    }


def _bodies(models: set[type[BaseModel]]) -> tuple[dict[type[BaseModel], Json], Json]:
    ordered = sorted(models, key=lambda model: model.__qualname__)
    refs, top = models_json_schema([(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}")
    schemas: Json = top.get("$defs", {})
    for schema in schemas.values():
        if schema.get("type") == "object" and "properties" in schema:
            schema["additionalProperties"] = False  # As `parse_model` has it, whatever the model says for stored events.
    return {model: refs[model, "validation"] for model in ordered}, schemas


def _command(use_case: UseCase[Any, Any], body: Json, schemas: Json, limits: BodyLimits, catalogue: Catalogue) -> Json:
    return {
        "operationId": use_case.name,
        "tags": ["commands"],
        "summary": f"{use_case.title_zh} / {use_case.title_en}",
        "description": f"{_roles(use_case.roles)} At most {limits.bytes_max} bytes, {limits.array_max} elements in an array.",
        "parameters": [
            *_path_parameters(use_case.path or ""),
            *(_parameter(name) for name in ("IdempotencyKey", "IfMatch", "After", "CorrelationId", "Traceparent")),
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body, "example": _sample(body, schemas)}}},
        "responses": {
            "200": {
                "description": "已接受 / accepted, now or the first time",
                "headers": {
                    name: {"$ref": f"#/components/headers/{name}"}
                    for name in ("Position", "ETag", "X-Correlation-Id", "Idempotency-Replayed")
                },
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CommandAnswer"}, "example": _ANSWER}},
            },
            **_problems([*_COMMAND_CODES, *use_case.refusals], catalogue),
        },
    }


def _query(query: Query, catalogue: Catalogue) -> Json:
    item: Json = {
        "type": "object",
        "properties": {column.name: _column(column) for column in query.columns},
        "required": [column.name for column in query.columns],
    }
    if query.details is not None:
        item["properties"]["details"] = {"type": "string", "description": "明细地址 / where the row opens into what is behind it"}
        item["required"].append("details")
    filters = [
        {"name": each.name, "in": "query", "required": False, "description": f"{each.zh} / {each.en}", "schema": _KINDS[each.kind]}
        for each in query.filters
    ]
    described: Json = {
        "operationId": query.name,
        "tags": ["queries"],
        "summary": f"{query.title_zh} / {query.title_en}",
        "description": "Without a token, or with one of any role: public figures." if query.public else _roles(query.roles),
        "parameters": [*filters, *(_parameter(name) for name in ("Limit", "Cursor", "After", "CorrelationId"))],
        "responses": {
            "200": {
                "description": "一页 / one page, in one snapshot with its freshness",
                "headers": {
                    name: {"$ref": f"#/components/headers/{name}"} for name in ("Position", "Freshness", "Link", "X-Correlation-Id")
                },
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["items", "next", "freshness", "parked"],
                            "properties": {
                                "items": {"type": "array", "maxItems": PAGE_ROWS_MAX, "items": item},
                                "next": {"type": ["string", "null"]},
                                "freshness": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Freshness"}},
                                "parked": {"type": "array", "items": {"type": "string"}},
                            },
                        }
                    }
                },
            },
            **_problems((code for code in _QUERY_CODES if not (query.public and code in ROLE_CODES)), catalogue),
        },
    }
    if query.public:
        described["security"] = [{}, {"bearer": []}]
    return described


def _events_of_a_stream(catalogue: Catalogue) -> Json:
    stream = {"name": "stream", "in": "path", "required": True, "description": "category-uuid", "schema": {"type": "string"}}
    return _events("events_of_a_stream", "一个流的事件 / the events of one stream", [stream], [*_READ_CODES, "stream_invalid"], catalogue)


def _events_of_the_log(catalogue: Catalogue) -> Json:
    return _events("events_of_the_log", "日志的事件 / the events of the log", [], _READ_CODES, catalogue)


def _events(name: str, summary: str, parameters: Sequence[Json], codes: Iterable[str], catalogue: Catalogue) -> Json:
    after = {
        "name": "after",
        "in": "query",
        "description": "版本或位置之后 / after this version (stream) or position (log)",
        "schema": {"type": "integer", "minimum": 0, "default": 0},
    }
    return {
        "operationId": name,
        "tags": ["events"],
        "summary": summary,
        "description": _roles(AUDIT_ROLES),
        "parameters": [*parameters, after, _parameter("Limit"), _parameter("CorrelationId")],
        "responses": {
            "200": {
                "description": "事件, 个人信息保持密封 / events; personal fields stay sealed",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EventPage"}}},
            },
            **_problems(codes, catalogue),
        },
    }


def _problems(codes: Iterable[str], catalogue: Catalogue) -> Json:
    """Responses by status, each with an example for every code it can carry."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(catalogue.types[code].status, []).append(code)
    responses: Json = {}
    for status, held in sorted(by_status.items()):
        described: Json = {
            "description": "; ".join(f"`{code}` {catalogue.types[code].en}" for code in held),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {code: {"value": _problem_sample(code, catalogue)} for code in held},
                }
            },
        }
        if any(code in RETRY_AFTER_SECONDS for code in held):
            described["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
        responses[str(status)] = described
    return responses


def _problem_sample(code: str, catalogue: Catalogue) -> Json:
    type_ = catalogue.types[code]
    return {
        "type": f"/problems/{code}",
        "title": type_.zh,
        "status": type_.status,
        "code": code,
        "title_zh": type_.zh,
        "title_en": type_.en,
    }


def _column(column: Column) -> Json:
    schema = dict(_KINDS[column.kind])
    if column.words is not None:
        schema["enum"] = [*column.words, *([None] if column.nullable else [])]
    if column.nullable:
        schema["type"] = [schema["type"], "null"]
    withheld = f"; null: {', '.join(sorted(column.withheld))}" if column.withheld else ""
    return {**schema, "description": f"{column.zh} / {column.en}{withheld}"}


def _path_parameters(path: str) -> list[Json]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}} for name in names]


def _parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


def _roles(roles: Iterable[Any]) -> str:
    return f"Roles: {', '.join(sorted(str(role) for role in roles))}."


def _parameters() -> Json:
    def header(name: str, description: str, schema: Json, *, required: bool = False) -> Json:
        return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}

    return {
        "IdempotencyKey": header(
            "Idempotency-Key",
            "Made and kept by the caller before sending; a repeat under the same key gets the first answer.",
            {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
            required=True,
        ),
        "IfMatch": header("If-Match", 'The version of the stream that the caller has seen, such as `"3"`.', {"type": "string"}),
        "After": header(
            "After",
            "Position tokens of earlier answers, of any service, comma-separated: the answer waits until they have arrived, 2 s at most.",
            {"type": "string"},
        ),
        "CorrelationId": header(
            "X-Correlation-Id", "A UUID that events and logs of all services carry on.", {"type": "string", "format": "uuid"}
        ),
        "Traceparent": header("traceparent", "W3C trace context, stored with the events.", {"type": "string"}),
        "Limit": {
            "name": "limit",
            "in": "query",
            "description": "每页行数 / rows of a page",
            "schema": {"type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX, "default": PAGE_ROWS},
        },
        "Cursor": {
            "name": "cursor",
            "in": "query",
            "description": "上一页的 next / `next` of the page before",
            "schema": {"type": "string"},
        },
    }


def _headers() -> Json:
    text: Json = {"type": "string"}
    return {
        "Position": {"description": "Position token `service:log id:position`; send it back in `After`.", "schema": text},
        "ETag": {"description": "Version of the stream after the command, for `If-Match`.", "schema": text},
        "Freshness": {"description": "`source;applied=..;head=..;behind=..`, one for each source log.", "schema": text},
        "Link": {"description": "The next page, `rel=next`.", "schema": text},
        "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}},
        "X-Correlation-Id": {"description": "The correlation id of this request.", "schema": {"type": "string", "format": "uuid"}},
        "Idempotency-Replayed": {"description": "`true` on an answer that was given before.", "schema": text},
    }


def _schemas(catalogue: Catalogue) -> Json:
    uuid, whole, instant = _KINDS["uuid"], {"type": "integer", "minimum": 0}, _KINDS["instant"]
    nullable_instant: Json = {"type": ["string", "null"], "format": "date-time"}
    return {
        "Problem": {
            "type": "object",
            "description": "RFC 9457. Further members tell what is wrong: `errors`, `pointer`, `parameter`, `values`.",
            "required": ["type", "title", "status", "code", "title_zh", "title_en"],
            "properties": {
                "type": {"type": "string", "format": "uri-reference"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "code": {"type": "string", "enum": sorted(catalogue.types)},
                "title_zh": {"type": "string"},
                "title_en": {"type": "string"},
                "command_id": uuid,
                "outcome": {"const": "refused"},
                "values": {"type": "object", "description": "Numbers and words of a kept refusal."},
                "pointer": {"type": "string", "description": "JSON pointer into the body."},
                "errors": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["pointer", "code", "detail"],
                        "properties": {"pointer": {"type": "string"}, "code": {"type": "string"}, "detail": {"type": "string"}},
                    },
                },
            },
        },
        "CommandAnswer": {
            "type": "object",
            "required": ["command_id", "outcome", "stream", "version", "events", "position"],
            "properties": {
                "command_id": uuid,
                "outcome": {"const": "accepted"},
                "stream": {"type": ["string", "null"]},
                "version": {"type": ["integer", "null"]},
                "events": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["id", "type", "version", "position"],
                        "properties": {"id": uuid, "type": {"type": "string"}, "version": whole, "position": whole},
                    },
                },
                "position": {"type": "string"},
            },
        },
        "Freshness": {
            "type": "object",
            "required": ["log_id", "applied", "head", "behind_events", "as_of", "discarded", "stopped"],
            "properties": {
                "log_id": {"type": ["string", "null"], "format": "uuid"},
                "applied": whole,
                "head": whole,
                "behind_events": whole,
                "as_of": nullable_instant,
                "discarded": {**whole, "description": "经两人批准弃置的事件 / events that two persons gave up"},
                "stopped": {"type": ["string", "null"], "description": "视图因何停止 / the error for which the views stand still"},
            },
        },
        "EventPage": {
            "type": "object",
            "required": ["items", "next_after"],
            "properties": {
                "items": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["position", "stream", "version", "id", "type", "schema_version", "time", "actor", "payload"],
                        "properties": {
                            "position": whole,
                            "stream": {"type": "string"},
                            "version": whole,
                            "id": uuid,
                            "type": {"type": "string"},
                            "schema_version": whole,
                            "time": instant,
                            "actor": {"type": "string"},
                            "command_id": uuid,
                            "correlation_id": uuid,
                            "causation_id": {"type": ["string", "null"], "format": "uuid"},
                            "payload": {"type": "object"},
                        },
                    },
                },
                "next_after": {"type": ["integer", "null"]},
            },
        },
    }


_ANSWER: Final[Json] = {
    "command_id": _SAMPLE_UUID,
    "outcome": "accepted",
    "stream": f"activity-{_SAMPLE_UUID}",
    "version": 3,
    "events": [{"id": _SAMPLE_UUID, "type": "registration.enrollment_accepted", "version": 3, "position": 42}],
    "position": f"registration:{_SAMPLE_LOG}:42",
}

_FORMATS: Final[Mapping[str, str]] = {
    "uuid": _SAMPLE_UUID,
    "date": "2017-03-05",
    "date-time": "2017-03-05T08:30:00+08:00",
    "time": "08:30:00",
}


def _sample(schema: Json, schemas: Json) -> Any:  # noqa: C901  # One case for each shape of a schema.
    """A value that a schema takes, for the documents."""
    if "$ref" in schema:
        return _sample(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for fixed in ("example", "const", "default"):
        if schema.get(fixed) is not None:
            return schema[fixed]
    if schema.get("examples"):
        return schema["examples"][0]
    if "enum" in schema:
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _sample(schema[choice][0], schemas)
    match schema.get("type"):
        case "object":
            return {name: _sample(each, schemas) for name, each in schema.get("properties", {}).items()}
        case "array":
            if "prefixItems" in schema:
                return [_sample(each, schemas) for each in schema["prefixItems"]]
            return [_sample(schema.get("items", {}), schemas)] * max(1, schema.get("minItems", 1))
        case "integer" | "number":
            return max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
        case "boolean":
            return True
        case "string":
            return _FORMATS.get(schema.get("format", ""), "x" * max(4, schema.get("minLength", 4)))
        case _:
            return None
