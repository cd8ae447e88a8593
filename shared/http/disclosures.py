"""Personal data handed out in the clear, each time written down before: the audited reveal of one person's fields for a stated reason, and
the copy of everything a service holds of one person (PIPL art. 45), as JSON or Excel.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from io import BytesIO
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from shared.audit import PersonalRead, ReadReason, RevealReason
from shared.clock import CIVIL_ZONE
from shared.envelope import Stream
from shared.http.api import Api
from shared.http.body import COMMAND_LIMITS, parse_json, parse_model, read_body
from shared.http.deadline import Deadline
from shared.http.gate import Handler, single
from shared.http.personal import Disclosing, Opened, Section
from shared.http.problems import ProblemError
from shared.http.query import POOL_WAIT_SECONDS, read_as
from shared.permissions import Actor, Resource, Role, barred
from shared.tracing import parse_uuid

REVEAL_PATH: Final = "/volunteers/{volunteer_id}/reveal"
COPY_PATH: Final = "/volunteers/{volunteer_id}/copy"
REVEAL_ROLES: Final = frozenset({Role.BUREAU_ADMIN, Role.UNIT_ADMIN})
COPY_ROLES: Final = frozenset({Role.BUREAU_ADMIN, Role.VOLUNTEER})
"""The person takes their own copy; the bureau gives it to somebody who has no account, on their word."""

SECTION_ROWS_MAX: Final = 10_000
XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_DANGEROUS: Final = tuple("=+-@\t\r\n\x00＝＋－＠")


class Reveal(BaseModel):
    """Which fields, and why: both are written down, with who asks."""

    fields: Annotated[tuple[str, ...], Field(min_length=1, max_length=20)]
    reason: RevealReason


def reveal_handler(api: Api, disclosing: Disclosing) -> Handler:
    """Shows chosen fields of one person of the own unit."""
    known = frozenset(disclosing.data.fields)

    async def handle(request: Request) -> Response:
        deadline = Deadline()
        actor = await deadline.meet(api.asker(request, REVEAL_ROLES))
        single(request, ())
        person = _person(request)
        raw = await read_body(request.headers, request.stream(), COMMAND_LIMITS)
        parse_json(raw, COMMAND_LIMITS)
        body = parse_model(raw, Reveal)
        if unknown := sorted(set(body.fields) - known):
            raise ProblemError("field_wrong_value", errors=[{"pointer": "/fields", "known": sorted(known), "unknown": len(unknown)}])
        opened = await deadline.meet(_opened(disclosing, person, actor))
        fields = sorted(set(body.fields))
        number = await deadline.meet(disclosing.note(PersonalRead(actor, [person], fields, "reveal", body.reason)))
        said = {"volunteer_id": person, "noted_as": number, "fields": {name: opened.fields.get(name) for name in fields}}
        return _answer(to_json(said), "application/json")

    return handle


def copy_handler(api: Api, disclosing: Disclosing) -> Handler:
    """Everything of one person, for that person: `?format=xlsx` as a workbook, else as JSON."""
    data = disclosing.data

    async def handle(request: Request) -> Response:
        deadline = Deadline()
        actor = await deadline.meet(api.asker(request, COPY_ROLES))
        form = single(request, ("format",)).get("format", "json")
        if form not in {"json", "xlsx"}:
            raise ProblemError("parameter_invalid", parameter="format", kind="json or xlsx")
        person = _person(request)
        refused = barred(actor, Resource(subject=person))
        if refused is not None:
            raise ProblemError("role_not_allowed", role=actor.role.value)
        opened = None if data.category is None else await deadline.meet(_opened(disclosing, person, actor))
        sections = await deadline.meet(_sections(api, data.sections, person))
        fields = [*(opened.fields if opened else ()), *(each.name for each, _ in sections)]
        reason: ReadReason = "own copy" if actor.person_id == person else "copy for the person"
        await deadline.meet(disclosing.note(PersonalRead(actor, [person], fields, "copy", reason)))
        if form == "xlsx":
            return _answer(await asyncio.to_thread(workbook, opened.fields if opened else {}, sections), XLSX)
        tables = {each.name: rows for each, rows in sections}
        return _answer(to_json({"volunteer_id": person, "fields": opened.fields if opened else {}, "tables": tables}), "application/json")

    return handle


async def _opened(disclosing: Disclosing, person: UUID, actor: Actor) -> Opened:
    assert disclosing.data.category is not None
    opened = await disclosing.open_(Stream(disclosing.data.category, person))
    if opened is None:
        raise ProblemError("volunteer_unknown")
    refused = barred(actor, Resource(unit=opened.unit, subject=person))
    if refused is not None:
        raise ProblemError(refused.code, values=dict(refused.detail))
    return opened


async def _sections(api: Api, sections: Sequence[Section], person: UUID) -> list[tuple[Section, list[dict[str, Any]]]]:
    views = api.views
    async with (
        views.pool.acquire(timeout=POOL_WAIT_SECONDS) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await read_as(connection, views, "bureau")  # Whoever holds the rows: the statements ask for this person's alone.
        return [(each, [dict(row) for row in await connection.fetch(each.sql, person, SECTION_ROWS_MAX)]) for each in sections]


def workbook(fields: Mapping[str, str | None], sections: Sequence[tuple[Section, Sequence[Mapping[str, Any]]]]) -> bytes:
    """An Excel file, a sheet for the fields and one for each section. A text stays a text, whatever it begins with."""
    from xlsxwriter import Workbook  # Late: a tenth of a second that only who asks for it pays.

    out = BytesIO()
    book = Workbook(out, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False})
    if fields:
        sheet = book.add_worksheet("本人信息 Person")
        for line, (name, value) in enumerate(fields.items()):
            sheet.write_string(line, 0, name)
            sheet.write_string(line, 1, cell(value))
    for section, rows in sections:
        sheet = book.add_worksheet(f"{section.zh} {section.en}"[:31])
        for column, name in enumerate(rows[0] if rows else ()):
            sheet.write_string(0, column, name)
        for line, row in enumerate(rows, 1):
            for column, value in enumerate(row.values()):
                if isinstance(value, int) and not isinstance(value, bool):
                    sheet.write_number(line, column, value)
                else:
                    sheet.write_string(line, column, cell(value))
    book.close()
    return out.getvalue()


def cell(value: Any) -> str:
    """A value as a cell's text; what could be taken for a formula, here or once it is saved as CSV, has an apostrophe before it."""
    match value:
        case None:
            return ""
        case datetime():
            return f"{value.astimezone(CIVIL_ZONE):%Y-%m-%d %H:%M:%S}"
        case date():
            return value.isoformat()
    text = str(value)
    return f"'{text}" if text.startswith(_DANGEROUS) else text


def _person(request: Request) -> UUID:
    found = parse_uuid(request.path_params["volunteer_id"])
    if found is None:
        raise ProblemError("id_invalid", parameter="volunteer_id")
    return found


def _answer(body: bytes, media_type: str) -> Response:
    headers = {"Cache-Control": "no-store"}
    if media_type == XLSX:
        headers["Content-Disposition"] = 'attachment; filename="copy.xlsx"'
    return Response(body, 200, headers, media_type)
