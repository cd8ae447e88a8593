"""`build_app`: the routes of a service, from its tables."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.asyncapi import asyncapi
from shared.http.api import Api
from shared.http.commands import CommandRoutes
from shared.http.disclosures import COPY_PATH, COPY_ROLES, REVEAL_PATH, REVEAL_ROLES, copy_handler, reveal_handler
from shared.http.documents import event_schema, openapi
from shared.http.gate import Gate, Handler, guarded, http_exceptions, security_headers
from shared.http.page import Pages
from shared.http.personal import Disclosing
from shared.http.probes import is_ready
from shared.http.problems import Catalogue, ProblemError, catalogue
from shared.http.reads import AUDIT_ROLES, log_handler, query_handler, stream_handler
from shared.metrics import CONTENT_TYPE, Metrics
from shared.permissions import APART, EVERYBODY, REACH, Action, Role


def build_app(api: Api, disclosing: Disclosing | None = None) -> FastAPI:
    """The application of one api process. Raises ValueError when two tables disagree (a doubled route, a refusal without words).

    Set `app.state.draining = True` to take the process out of readiness before it ends.
    """
    problems = catalogue(api.refusals)
    _check(api, problems)
    routes = _Routes(problems, api.metrics)
    commands = CommandRoutes(api)
    for use_case in api.use_cases:
        if use_case.path is not None:
            routes.add_command(f"/api/v1{use_case.path}", commands.handler(use_case), use_case.roles)
    for query in api.queries:
        routes.add("GET", f"/api/v1{query.path}", query_handler(api, query), EVERYBODY if query.public else query.roles)
    routes.add("GET", "/api/v1/streams/{stream}/events", stream_handler(api), AUDIT_ROLES)
    routes.add("GET", "/api/v1/events", log_handler(api), AUDIT_ROLES)
    if disclosing is not None:
        if disclosing.data.fields:
            routes.add("POST", f"/api/v1{REVEAL_PATH}", reveal_handler(api, disclosing), REVEAL_ROLES)
        routes.add("GET", f"/api/v1{COPY_PATH}", copy_handler(api, disclosing), COPY_ROLES)
    _add_documents(routes, api, problems, disclosing)
    _add_pages(routes, api, problems)
    _add_probes(routes, api)
    targets = api.sign_in.form_targets if api.sign_in else ()
    headers = security_headers(is_secure=api.forms.is_secure, form_targets=targets)
    gate = partial(Gate, metrics=api.metrics, catalogue=problems, rates=api.rates, headers=headers)
    app = _App(
        _ShortWay(routes.commands, gate),
        openapi_url=None,  # Ours is made from the tables, with every problem in it.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(gate)],
        exception_handlers={HTTPException: http_exceptions(problems)},
    )
    app.router.routes.extend(routes.made)
    app.state.draining = False
    app.state.actions = tuple(routes.actions)
    return app


class _App(FastAPI):
    """A command's request goes straight to its handler: what lies between is more than half of what such a request costs here.

    All else, and what is wrong about a command's address or method, passes through FastAPI, whose routes include the commands.
    """

    def __init__(self, short_way: "_ShortWay", **settings: Any) -> None:
        super().__init__(**settings)
        self._short_way = short_way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._short_way.leads(scope):
            await self._short_way(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class _ShortWay:
    """The commands by their addresses; an ASGI application for those that it `leads`."""

    def __init__(self, commands: Mapping[str, Handler], gate: Callable[[ASGIApp], Gate]) -> None:
        self._by_length: dict[int, list[tuple[list[str], Handler]]] = {}
        for path, handler in commands.items():
            parts = path.split("/")
            self._by_length.setdefault(len(parts), []).append((parts, handler))
        self._gate = gate(self._answer)

    def leads(self, scope: Scope) -> bool:
        """Whether the request is for a command, whose handler and path parameters the scope then holds."""
        if scope["method"] != "POST" or scope.get("root_path"):
            return False
        said = scope["path"].split("/")
        for parts, handler in self._by_length.get(len(said), ()):
            if all(part == told or (part[:1] == "{" and told) for part, told in zip(parts, said, strict=True)):
                scope["endpoint"] = handler
                scope["path_params"] = {part[1:-1]: told for part, told in zip(parts, said, strict=True) if part[:1] == "{"}
                return True
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gate(scope, receive, send)

    @staticmethod
    async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = await scope["endpoint"](Request(scope, receive))
        await response(scope, receive, send)


class _Routes:
    """Collects routes, each guarded, and with them the table of who may what."""

    def __init__(self, problems: Catalogue, metrics: Metrics) -> None:
        self._problems = problems
        self._metrics = metrics
        self.made: list[Route] = []
        self.actions: list[Action] = []
        self.commands: dict[str, Handler] = {}

    def add_command(self, path: str, handler: Handler, roles: frozenset[Role]) -> None:
        self.commands[path] = guarded(path, handler, self._problems, self._metrics)
        self.add("POST", path, handler, roles)

    def add(self, method: str, path: str, handler: Handler, roles: frozenset[Role] = EVERYBODY) -> None:
        self.made.append(Route(path, guarded(path, handler, self._problems, self._metrics), methods=[method]))
        self.actions.append(Action(method, path, roles))


def _check(api: Api, problems: Catalogue) -> None:
    paths = [("POST", each.path) for each in api.use_cases if each.path] + [("GET", each.path) for each in api.queries]
    names = [each.name for each in api.use_cases] + [each.name for each in api.queries]
    doubled = [each for each, times in Counter([*paths, *names]).items() if times > 1]
    if doubled:
        raise ValueError(f"doubled: {doubled}")
    for use_case in api.use_cases:
        silent = set(use_case.refusals) - problems.types.keys()
        if silent:
            raise ValueError(f"{use_case.name} can refuse with codes that have no words: {sorted(silent)}")
    unknown = api.imports - {each.name for each in api.use_cases}
    if unknown:
        raise ValueError(f"no such import: {sorted(unknown)}")


def _add_documents(routes: _Routes, api: Api, problems: Catalogue, disclosing: Disclosing | None) -> None:
    schemas = {(event.TYPE, str(event.VERSION)): event for event in api.events}

    async def all_schemas(_request: Request) -> Response:
        return JSONResponse(
            {"schemas": [{"type": type_, "version": int(version), "url": f"/schemas/{type_}/{version}"} for type_, version in schemas]}
        )

    async def one_schema(request: Request) -> Response:
        event = schemas.get((request.path_params["type"], request.path_params["version"]))
        if event is None:
            raise ProblemError("not_found")
        return Response(to_json(event_schema(event)), media_type="application/schema+json")

    async def all_problems(_request: Request) -> Response:
        return JSONResponse(
            {
                "problems": [
                    {
                        "type": f"/problems/{each.code}",
                        "code": each.code,
                        "status": each.status,
                        "title_zh": each.zh,
                        "title_en": each.en,
                        "kept": each.code in problems.refusals,
                    }
                    for each in problems
                ]
            }
        )

    routes.add("GET", "/api/v1/openapi.json", _once(lambda: openapi(api, problems, disclosing)))
    routes.add("GET", "/asyncapi.json", _once(lambda: asyncapi(api.service, api.version, api.title_zh, topic_prefix=api.topic_prefix)))
    routes.add("GET", "/schemas", all_schemas)
    routes.add("GET", "/schemas/{type}/{version}", one_schema)
    routes.add("GET", "/problems.json", all_problems)
    routes.add("GET", "/permissions.json", _once(lambda: permissions_body(routes.actions)))


def permissions_body(actions: Sequence[Action]) -> dict[str, Any]:
    """The table of who may what, as it is enforced: every route with its roles, how far each role reaches, and which hands stay apart."""
    return {
        "actions": [
            {"method": each.method, "path": each.path, "roles": [role.value for role in Role if role in each.roles]} for each in actions
        ],
        "reach": {role.value: reach for role, reach in REACH.items()},
        "apart": {duty: list(hands) for duty, hands in APART.items()},
    }


def _add_pages(routes: _Routes, api: Api, problems: Catalogue) -> None:
    pages = Pages(api, problems)
    routes.add("GET", "/", pages.front)
    routes.add("GET", "/static/leifeng.css", pages.style)
    routes.add("GET", "/problems", pages.problems)
    routes.add("GET", "/problems/{code}", pages.problems)
    for query in api.queries:
        routes.add("GET", f"/view{query.path}", pages.list_handler(query), EVERYBODY if query.public else query.roles)
    if api.sign_in is not None:
        for method, path, handler in api.sign_in.routes(pages.sign_in_page):
            routes.add(method, path, pages.for_people(handler))
    routes.add("GET", "/view/streams/{stream}/events", pages.stream_handler())


def _add_probes(routes: _Routes, api: Api) -> None:
    async def live(_request: Request) -> Response:
        return Response("ok", media_type="text/plain")

    async def ready(request: Request) -> Response:
        if request.app.state.draining or not await is_ready(api.ready):
            return Response("not ready", 503, media_type="text/plain")
        return Response("ok", media_type="text/plain")

    async def metrics(_request: Request) -> Response:
        return Response(api.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    routes.add("GET", "/livez", live)
    routes.add("GET", "/readyz", ready)
    routes.add("GET", "/metrics", metrics)


def _once(make: Callable[[], dict[str, Any]]) -> Handler:
    """A document that is made when it is first asked for, and kept as bytes."""
    made: bytes | None = None

    async def handle(_request: Request) -> Response:
        nonlocal made
        if made is None:
            made = to_json(make())
        return Response(made, media_type="application/json")

    return handle
