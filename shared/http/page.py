"""The page that each api process serves: what the service knows, how fresh it is, and where to go on (Chinese, with an English switch).

Rendered on the server, without scripts and without a word from elsewhere. A visitor is nobody until they have signed in, so the front page
has `public` queries only, and of an event only what `OPEN_FIELDS` names: figures, days, policies, the codes of plans, and the tails of ids.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from shared.clock import CIVIL_ZONE
from shared.contracts.topics import CATEGORIES
from shared.envelope import Record
from shared.http.api import Api
from shared.http.deadline import Deadline
from shared.http.fields import CODES, DAY_ONLY, FIELDS_ZH, OPEN_EVENTS, OPEN_FIELDS
from shared.http.gate import Handler, Language, exchange_of, note_denial, problem_of, single
from shared.http.problems import RETRY_AFTER_SECONDS, Catalogue, ProblemError
from shared.http.query import PAGE_ROWS_MAX, Column, Filter, Page, Query, read, read_choices, read_cursor, read_filters, read_limit
from shared.http.reads import details_of, events_of, whole
from shared.http.signin import TOKEN_COOKIE
from shared.permissions import Actor
from shared.tracing import parse_uuid

FIRST_ROWS: Final = 20
"""Rows of each list on the front page."""

SERVICE_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "registration": ("报名登记", "Registration"),
    "hours": ("服务时长", "Hours"),
    "recognition": ("星级评定", "Recognition"),
}

TEMPLATES: Final = ("front", "list", "stream", "problem", "problems", "sign_in", "link", "account")

SHORT_CHARACTERS: Final = 4
SHORT_LETTERS: Final = 12
"""A text up to this long stands on one line; a longer one may wrap, but not into a column of single characters."""

COOKIE_SECONDS: Final = 365 * 24 * 3600

_FOLDER: Final = Path(__file__).parent
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)
_CODE: Final = re.compile(r"[A-Za-z0-9_.:+/-]{1,60}")


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as it is shown: text, a longer text for the pointer, how it is set, and where it leads."""

    text: str
    full: str = ""
    style: str = ""
    link: str = ""


class Words:
    """Says things in the language of one request."""

    def __init__(self, language: Language) -> None:
        self.language = language

    def __call__(self, zh: str, en: str) -> str:
        return zh if self.language == "zh" else en

    def field(self, column: Column, value: Any) -> Cell:
        """A value of a list's column, for people to read."""
        if column.words is not None and value in column.words:
            said = self(*column.words[value])
            return Cell(said, value, _text_style(said))
        if column.kind == "integer" and value is None:
            return Cell("—", style="number none")
        if column.plain:
            return Cell(str(value), style="number")
        return self.cell(value, minutes=column.minutes)

    def cell(self, value: Any, *, minutes: bool = False) -> Cell:
        """A value, for people to read."""
        match value:
            case None:
                return Cell("—", style="none")
            case bool():
                return Cell(self("是", "yes") if value else self("否", "no"))
            case int() if minutes:
                return Cell(self.span(value), f"{value} min", "number") if value else Cell("0", style="number none")
            case int():
                return Cell(f"{value:,}", style="number")
            case datetime():
                return Cell(value.astimezone(CIVIL_ZONE).strftime("%Y-%m-%d %H:%M"), value.isoformat(), "time")
            case date():
                return Cell(value.isoformat(), style="time")
            case UUID():
                return Cell(f"…{str(value)[-8:]}", str(value), "id")  # The front of a UUIDv7 is time: neighbours would look alike.
            case _:
                return Cell(str(value), style=_text_style(str(value)))

    def span(self, minutes: int) -> str:
        """Minutes as hours and minutes."""
        sign, (hours, rest) = "-" if minutes < 0 else "", divmod(abs(minutes), 60)
        return self(f"{sign}{hours:,} 小时 {rest:02} 分", f"{sign}{hours:,} h {rest:02} min")


class Pages:
    """The handlers of the page and of what opens from it."""

    def __init__(self, api: Api, catalogue: Catalogue) -> None:
        self._api = api
        self._catalogue = catalogue
        self._public = [query for query in api.queries if query.public]
        environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._templates = {name: environment.get_template(f"{name}.html") for name in TEMPLATES}
        self._style = (_FOLDER / "static" / "leifeng.css").read_bytes()
        self._stamp = sha256(self._style).hexdigest()[:12]
        self._codes = {name: dict(said) for name, said in CODES.items()}
        for column in (column for query in api.queries for column in query.columns if column.words):
            self._codes.setdefault(column.name, {}).update(column.words or {})
        self._said = {event.TYPE: (event.__doc__ or "").partition(":")[0] for event in api.events}

    async def style(self, _request: Request) -> Response:
        """The one style sheet."""
        return Response(self._style, 200, {"Cache-Control": "public, max-age=86400", "ETag": f'"{self._stamp}"'}, "text/css")

    async def front(self, request: Request) -> Response:
        """`/`: every public list, heads, lag, parked keys, and the ways out."""
        words = _words(request)
        pages: list[tuple[Query, Page]] = []
        trouble = None
        head, now = None, None
        deadline = Deadline()
        try:
            head = await deadline.meet(self._head())
            now = await deadline.meet(self._now())
            for query in self._public:
                pages.append((query, await deadline.meet(self._page(query, {}, None, FIRST_ROWS))))  # noqa: PERF401
        except Exception as error:  # noqa: BLE001  # The page says what is wrong, and shows what it has.
            trouble = self._catalogue.types[problem_of(error, "/").code]
        freshness = pages[-1][1].freshness if pages else ()
        return self.answer(
            request,
            words,
            "front",
            trouble.status if trouble else 200,
            trouble=trouble and words(trouble.zh, trouble.en),
            head=head,
            now=words.cell(now).text if now else None,
            freshness=[(_name(words, each.source), each, words.cell(each.as_of)) for each in freshness],
            behind=sum(each.behind_events for each in freshness),
            parked=sorted({key for _, page in pages for key in page.parked}),
            lists=[_shown(words, query, page) for query, page in pages],
            inner=[(words(query.title_zh, query.title_en), f"/view{query.path}") for query in self._api.queries if not query.public],
        )

    def list_handler(self, query: Query) -> Handler:
        """`/view/...`: all rows of one list, filtered and page by page; of one that is not public, for who is signed in and may."""

        async def handle(request: Request) -> Response:
            words = _words(request)
            deadline = Deadline()
            reader = None if query.public else await deadline.meet(self._api.visitor(request, query.roles))
            known = (*(each.name for each in query.filters), "cursor", "limit", "lang")
            # A form sends what was left empty too.
            given = {name: value for name, value in single(request, known).items() if value and name != "lang"}
            given |= {each.name: _with_zone(given[each.name]) for each in query.filters if each.kind == "instant" and each.name in given}
            filters = read_filters(query, given)
            cursor, limit = read_cursor(query, filters, given.get("cursor")), read_limit(given.get("limit"))
            page = await deadline.meet(self._page(query, filters, cursor, limit, reader))
            choices = await deadline.meet(read_choices(self._api.views, query))
            return self.answer(
                request,
                words,
                "list",
                list=_shown(words, query, page),
                filters=[
                    _asked(words, query, each, filters.get(each.name), choices.get(each.name, ()))
                    for each in query.filters
                    if each.kind != "uuid" or each.name in filters  # Nobody types one; a link brings it.
                ],
                chosen=urlencode({name: given[name] for name in filters}),
                next=f"?{urlencode({**given, 'cursor': page.next_cursor})}" if page.next_cursor else None,
                freshness=[(_name(words, each.source), each, words.cell(each.as_of)) for each in page.freshness],
                parked=page.parked,
            )

        return self.for_people(handle)

    def stream_handler(self) -> Handler:
        """`/view/streams/...`: the events behind a figure, as far as they are about the figure and not about a person."""

        async def handle(request: Request) -> Response:
            words = _words(request)
            given = single(request, ("after", "limit", "lang"))
            limit = read_limit(given.get("limit"))
            stream, after = request.path_params["stream"], whole("after", given.get("after", "0"))
            if stream.partition("-")[0] in CATEGORIES.keys() - OPEN_FIELDS.keys():
                raise ProblemError("not_found")
            numbered = await Deadline().meet(self._events(stream, after, limit))
            return self.answer(
                request,
                words,
                "stream",
                stream=stream,
                events=[
                    (number, record, self._name_of(words, record.type), _dated(words, record), self._facts(words, record))
                    for number, record in numbered[:limit]
                ],
                next=f"?{urlencode({'after': numbered[limit - 1][0], 'limit': limit})}" if len(numbered) > limit else None,
            )

        return self.for_people(handle)

    async def _events(self, stream: str, after: int, limit: int) -> Sequence[tuple[int, Record]]:
        """Up to `limit + 1` events of a stream that stand on a page, numbered among these: no gap tells of one that does not.

        Raises ProblemError `stream_invalid`.
        """
        types = OPEN_EVENTS.get(stream.partition("-")[0])
        if types is None:
            return [(record.version, record) for record in await events_of(self._api, stream, after, limit)]
        found, version = list[Record](), 0
        while len(found) <= after + limit and (page := await events_of(self._api, stream, version, PAGE_ROWS_MAX)):
            found += [each for each in page if each.type in types]
            version = page[-1].version
        return list(enumerate(found, 1))[after : after + limit + 1]

    async def problems(self, request: Request) -> Response:
        """`/problems` and `/problems/<code>`: what each problem means."""
        words = _words(request)
        code = request.path_params.get("code")
        types = [each for each in self._catalogue if code in {None, each.code}]
        return self.answer(request, words, "problems", 200 if types else 404, types=types, refusals=self._catalogue.refusals)

    def _name_of(self, words: Words, event_type: str) -> str:
        """What an event is called: its contract says so first in Chinese, and its type is English."""
        name = event_type.partition(".")[2].replace("_", " ")
        return words(self._said.get(event_type) or name, name)

    def _facts(self, words: Words, record: Record) -> list[tuple[str, Cell]]:
        """The fields of a payload that are open to everybody."""
        shown = OPEN_FIELDS[record.stream.category]
        return [
            (words(FIELDS_ZH.get(name, name), name.replace("_", " ").removesuffix(" id")), self._fact(words, shown, name, value))
            for name, value in from_json(record.payload).items()
            if name in shown
        ]

    def _fact(self, words: Words, shown: frozenset[str], name: str, value: Any) -> Cell:
        match value:
            case str() if said := self._codes.get(name, {}).get(value):
                return Cell(words(*said), value)
            case str() if _INSTANT.fullmatch(value):
                return words.cell(datetime.fromisoformat(value))
            case str() if parse_uuid(value):
                return Cell(f"…{value[-8:]}", style="id")
            case str() if _CODE.fullmatch(value):
                return Cell(value, style="id")
            case str():
                return Cell("…", style="none")
            case dict():
                parts = (self._fact(words, shown, each, part).text for each, part in value.items() if each in shown)
                return Cell(" ".join(part for part in parts if part != "…") or "…")
            case [dict(), *_]:
                return Cell("; ".join(self._fact(words, shown, name, each).text for each in value))
            case list():
                return Cell(words(f"{len(value)} 项", f"{len(value)} items"))
            case _:
                return words.cell(value, minutes=name.endswith("minutes"))

    def _sign_in(self, request: Request, *, back: bool) -> str | None:
        """Where to sign in, and come `back` to this page."""
        place = self._api.sign_in_at
        if not back:
            return place
        here = f"{self._api.forms.origin}{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        return None if place is None else f"{place}?{urlencode({'next': here})}"

    async def _page(
        self, query: Query, filters: Mapping[str, Any], cursor: Sequence[Any] | None, limit: int, reader: Actor | None = None
    ) -> Page:
        return await read(self._api.views, query, filters=filters, cursor=cursor, limit=limit, reader=reader, required={})

    async def _head(self) -> int:
        return (await self._api.store.head()).position

    async def _now(self) -> datetime:
        return await self._api.now()

    def for_people(self, handler: Handler) -> Handler:
        """Shows a problem as a page instead of JSON."""

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:  # noqa: BLE001  # As `guarded` does, for a reader instead of a program.
                problem = self._catalogue.types[problem_of(error, exchange_of(request).route).code]
                note_denial(problem, exchange_of(request).route, self._api.metrics)
                words = _words(request)
                return self.answer(request, words, "problem", problem.status, problem=problem, said=words(problem.zh, problem.en))

        return handle

    def sign_in_page(self, request: Request, template: str, status: int, **shown: Any) -> Response:
        """A page of signing in."""
        return self.answer(request, _words(request), template, status, **shown)

    def answer(self, request: Request, words: Words, template: str, status: int = 200, **shown: Any) -> Response:
        """A template, rendered in the visitor's language."""
        links = {**self._api.siblings, self._api.service: "/"}
        # What is wrong about an address is not said again on the page that says so; who may not see it yet comes back to it.
        is_there = status < 400 or status in {401, 403}
        language = {"lang": words("en", "zh")}
        html = self._templates[template].render(
            t=words,
            language=words.language,
            title=words(self._api.title_zh, self._api.title_en),
            service=self._api.service,
            version=self._api.version,
            stamp=self._stamp,
            services=[(_name(words, name), links[name], name == self._api.service) for name in SERVICE_NAMES if name in links],
            sign_in=self._sign_in(request, back=is_there),
            is_known=bool(self._api.forms.cookie(request, TOKEN_COOKIE)),
            switch=f"{request.url.path}?{urlencode({**request.query_params, **language})}" if is_there else f"?{urlencode(language)}",
            **shown,
        )
        response = HTMLResponse(html, status, {"Content-Language": words.language, "Vary": "Cookie"})
        if status == 503:
            response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS["store_unavailable"])
        if request.query_params.get("lang") in {"zh", "en"}:
            response.set_cookie("lang", words.language, max_age=COOKIE_SECONDS, samesite="lax", httponly=True)
        return response


def _words(request: Request) -> Words:
    asked = request.query_params.get("lang") or request.cookies.get("lang")
    return Words("en" if asked == "en" else "zh")


def _name(words: Words, service: str) -> str:
    return words(*SERVICE_NAMES.get(service, (service, service)))


def _dated(words: Words, record: Record) -> Cell:
    """When an event was said, as far as that tells nothing of a person's comings and goings."""
    if record.stream.category not in DAY_ONLY:
        return words.cell(record.time)
    day = record.time.astimezone(CIVIL_ZONE).date().isoformat()
    return Cell(day, day, "time")


def _opens(query: Query) -> bool:
    """Whether a visitor may follow a row into what is behind it."""
    return (query.details or "").removeprefix("streams/").partition("-")[0] in OPEN_FIELDS


def _shown(words: Words, query: Query, page: Page) -> dict[str, Any]:
    """A list as the templates take it."""
    columns: Sequence[Column] = [each for each in query.columns if not each.hidden and each.language in {None, words.language}]
    return {
        "name": query.name,
        "title": words(query.title_zh, query.title_en),
        "path": query.path.lstrip("/"),
        "columns": [(words(column.zh, column.en), column.kind == "integer") for column in columns],
        "rows": [
            {
                "cells": [
                    (words(column.zh, column.en), _linked(query, column, row, words.field(column, row[column.name]))) for column in columns
                ],
                "details": f"/view/{details_of(query, row)}" if _opens(query) else None,
                "parked": query.key is not None and str(row[query.key]) in page.parked,
            }
            for row in page.rows
        ],
        "more": page.next_cursor is not None,
        "opens": _opens(query) or bool(page.parked),
    }


def _linked(query: Query, column: Column, row: Mapping[str, Any], cell: Cell) -> Cell:
    """What the list can be filtered by leads to its rows."""
    value = row[column.of or column.name]
    name = (column.of or column.name).removesuffix("_id")
    known = isinstance(value, UUID) and any(each.name == name for each in query.filters)
    return replace(cell, link=f"/view{query.path}?{urlencode({name: value})}") if known else cell


def _asked(words: Words, query: Query, each: Filter, value: Any, choices: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """A filter as the form asks for it: as a choice where the codes are known."""
    known = next((column.words for column in query.columns if column.name == each.name and column.words), {})
    options = [(code, words(*said)) for code, said in known.items()] + [(code, words(zh, en)) for code, zh, en in choices]
    if each.kind == "boolean":
        options = [("true", words("是", "yes")), ("false", words("否", "no"))]
    match value:
        case None:
            text = ""
        case bool():
            text = "true" if value else "false"
        case datetime():
            text = value.astimezone(CIVIL_ZONE).strftime("%Y-%m-%dT%H:%M")
        case _:
            text = str(value)
    if options and text not in {"", *(code for code, _ in options)}:
        options.append((text, text))
    return {"name": each.name, "label": words(each.zh, each.en), "value": text, "type": _INPUTS.get(each.kind, "text"), "options": options}


_INPUTS: Final = {"date": "date", "instant": "datetime-local", "integer": "number"}


def _with_zone(text: str) -> str:
    """A form asks for civil time, without a zone."""
    return f"{text}+08:00" if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?", text, re.ASCII) else text


def _text_style(text: str) -> str:
    return "short" if len(text) <= (SHORT_LETTERS if text.isascii() else SHORT_CHARACTERS) else "words"
