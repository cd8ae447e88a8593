"""Queries and the events behind a figure, over HTTP. Every answer says how fresh it is (D11)."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from shared.contracts.event import SEALED_PREFIX
from shared.contracts.topics import CATEGORIES, SERVICES
from shared.envelope import Record, Stream
from shared.errors import EnvelopeError, NotCaughtUpError
from shared.http.api import Api
from shared.http.deadline import Deadline
from shared.http.gate import Handler, single
from shared.http.positions import PositionToken, parse_tokens
from shared.http.problems import ProblemError
from shared.http.query import FOLLOW_SECONDS_MAX, Freshness, Page, Query, read, read_cursor, read_filters, read_limit
from shared.permissions import Role

AUDIT_ROLES: Final = frozenset({Role.AUDITOR, Role.BUREAU_ADMIN})
"""Who may look into the log itself. Personal fields are sealed there for them too."""

SEALED: Final = "[sealed]"

_AGAIN_SECONDS: Final = 0.02


def query_handler(api: Api, query: Query) -> Handler:
    """The handler of one query."""
    known = (*(each.name for each in query.filters), "cursor", "limit")

    async def handle(request: Request) -> Response:
        deadline = Deadline()
        reader = await deadline.meet((api.reader if query.public else api.asker)(request, query.roles))
        given = single(request, known)
        filters = read_filters(query, given)
        after = parse_tokens(request.headers.getlist("after"), frozenset(SERVICES))
        cursor = read_cursor(query, filters, given.get("cursor"))
        limit = read_limit(given.get("limit"))
        required = await deadline.meet(api.waits.for_views(after, FOLLOW_SECONDS_MAX)) if after else {}
        page = await deadline.meet(_read_until(api, query, filters, cursor, limit, reader, required))
        headers = _freshness_headers(page.freshness)
        if page.next_cursor is not None:
            follow = urlencode({**given, "cursor": page.next_cursor})
            headers.append(("Link", f'<{request.url.path}?{follow}>; rel="next"'))
        return _with_headers(Response(to_json(page_body(query, page)), 200, None, "application/json"), headers)

    return handle


async def _read_until(api: Api, query: Query, filters: Any, cursor: Any, limit: int, reader: Any, required: Mapping[str, int]) -> Page:
    """Position check and rows are one snapshot; between the waiting and the snapshot a swap may have set the views back a little."""
    for _ in range(10):
        try:
            return await read(api.views, query, filters=filters, cursor=cursor, limit=limit, reader=reader, required=required)
        except NotCaughtUpError:
            await asyncio.sleep(_AGAIN_SECONDS)
    return await read(api.views, query, filters=filters, cursor=cursor, limit=limit, reader=reader, required=required)


def page_body(query: Query, page: Page) -> dict[str, Any]:
    """The body of a query's answer."""
    items = [dict(row) for row in page.rows]
    if query.details is not None:
        for item in items:
            item["details"] = f"/api/v1/{details_of(query, item)}"
    return {
        "items": items,
        "next": page.next_cursor,
        "freshness": {each.source: freshness_body(each) for each in page.freshness},
        "parked": list(page.parked),
    }


def details_of(query: Query, row: Mapping[str, Any]) -> str:
    """Where a row opens into what is behind it: a path below `/api/v1` and below `/view`."""
    return (query.details or "").format_map({name: str(value) for name, value in row.items()})


def freshness_body(freshness: Freshness) -> dict[str, Any]:
    """How fresh one source is, in JSON."""
    return {
        "log_id": freshness.log_id,
        "applied": freshness.applied,
        "head": freshness.head,
        "behind_events": freshness.behind_events,
        "as_of": freshness.as_of,
        "discarded": freshness.discarded,
        "stopped": freshness.stopped,
    }


def _freshness_headers(sources: Sequence[Freshness]) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for each in sources:
        headers.append(("Freshness", f"{each.source};applied={each.applied};head={each.head};behind={each.behind_events}"))
        if each.log_id is not None:
            headers.append(("Position", str(PositionToken(each.source, each.log_id, each.applied))))
    return headers


def _with_headers(response: Response, headers: Sequence[tuple[str, str]]) -> Response:
    for name, value in headers:
        response.headers.append(name, value)
    return response


def stream_handler(api: Api) -> Handler:
    """The events of one stream: what a figure is made of."""

    async def handle(request: Request) -> Response:
        deadline = Deadline()
        await deadline.meet(api.asker(request, AUDIT_ROLES))
        given = single(request, ("after", "limit"))
        after, limit = whole("after", given.get("after", "0")), read_limit(given.get("limit"))
        records = await deadline.meet(events_of(api, request.path_params["stream"], after, limit))
        return _events_answer(records[:limit], records[limit - 1].version if len(records) > limit else None)

    return handle


def log_handler(api: Api) -> Handler:
    """The events of the service's log, in order of position."""

    async def handle(request: Request) -> Response:
        deadline = Deadline()
        await deadline.meet(api.asker(request, AUDIT_ROLES))
        given = single(request, ("after", "limit"))
        after, limit = whole("after", given.get("after", "0")), read_limit(given.get("limit"))
        records = await deadline.meet(_log_page(api, after, limit + 1))
        return _events_answer(records[:limit], records[limit - 1].position if len(records) > limit else None)

    return handle


async def events_of(api: Api, stream: str, after_version: int, limit: int) -> Sequence[Record]:
    """Up to `limit + 1` records of a stream of this service. Raises ProblemError `stream_invalid`."""
    try:
        parsed = Stream.parse(stream)
    except EnvelopeError:
        raise ProblemError("stream_invalid") from None
    category = CATEGORIES.get(parsed.category)
    if category is None or category.service != api.service or str(parsed) != stream:
        raise ProblemError("stream_invalid")
    return await api.store.read_stream(parsed, after_version, limit + 1)


async def _log_page(api: Api, after_position: int, limit: int) -> Sequence[Record]:
    return await api.store.read_page(after_position, limit)


def event_body(record: Record) -> dict[str, Any]:
    """A record as an auditor sees it."""
    return {
        "position": record.position,
        "stream": str(record.stream),
        "version": record.version,
        "id": record.event_id,
        "type": record.type,
        "schema_version": record.schema_version,
        "time": record.time,
        "actor": record.actor,
        "command_id": record.command_id,
        "correlation_id": record.correlation_id,
        "causation_id": record.causation_id,
        "payload": {name: _shown(value) for name, value in from_json(record.payload).items()},
    }


def _shown(value: Any) -> Any:
    return SEALED if isinstance(value, str) and value.startswith(SEALED_PREFIX) else value


def _events_answer(records: Sequence[Record], next_after: int | None) -> Response:
    return Response(to_json({"items": [event_body(each) for each in records], "next_after": next_after}), 200, None, "application/json")


def whole(name: str, text: str) -> int:
    """The value of a parameter that is a version or a position. Raises ProblemError `parameter_invalid`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ProblemError("parameter_invalid", parameter=name, kind="integer")
    return int(text)
