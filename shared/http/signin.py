"""Signing in, as pages: by the bureau's provider, by a local account, or by a link; who one is and as what; signing out.

One service has these pages. It keeps a session and gives the browser a token of fifteen minutes, which the pages of all services read; when
that is over they send the browser here again, and while the session lasts it comes back with a new one. So what a session may do ends with
the roles, within fifteen minutes at the latest even where nothing more is heard of them.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from shared import logs
from shared.http.accounts import SESSION_SECONDS_MAX, Accounts, PasswordError, Session, Way, new_flow
from shared.http.auth import LIFETIME_SECONDS_MAX
from shared.http.deadline import Deadline
from shared.http.door import Roles
from shared.http.forms import Forms
from shared.http.gate import Handler
from shared.http.problems import ProblemError
from shared.http.provider import Provider, ProviderError
from shared.http.signing import Signer

TOKEN_COOKIE: Final = "leifeng_token"  # noqa: S105  # Its name.
_SESSION_COOKIE: Final = "leifeng_session"
_STATE_COOKIE: Final = "leifeng_state"
_STATE_SECONDS: Final = 600
HASH_SECONDS_MAX: Final = 20.0
"""A password takes its time to be checked, by intent, and waits for its turn."""
HOME: Final = "/account"

_log = logs.logger()

Answer = Callable[..., Response]
"""`Pages.answer`: renders a template for a request."""


@dataclass(frozen=True, slots=True)
class Client:
    """What the provider knows this installation by."""

    provider: Provider
    id: str
    secret: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignIn:
    """Everything that signing in needs. `services` are the origins of the sibling services: where one may be sent back to."""

    accounts: Accounts
    signer: Signer
    forms: Forms
    client: Client | None
    roles_of: Callable[[UUID], Awaitable[Roles]]
    services: Mapping[str, str]

    def routes(self, answer: Answer) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each page."""
        pages = _Pages(self, answer)
        return [
            ("GET", "/sign-in", pages.ask),
            ("POST", "/sign-in", pages.by_password),
            ("GET", "/sign-in/link", pages.ask_link),
            ("POST", "/sign-in/link", pages.by_link),
            ("GET", "/sign-in/provider", pages.to_provider),
            ("GET", "/sign-in/callback", pages.from_provider),
            ("GET", HOME, pages.account),
            ("POST", "/account/acting", pages.act_as),
            ("POST", "/account/password", pages.set_password),
            ("POST", "/sign-out", pages.sign_out),
        ]

    @property
    def form_targets(self) -> tuple[str, ...]:
        """Where a form of these pages may lead by redirects."""
        return tuple(_origin(each) for each in self.services.values())

    def safe_next(self, asked: str | None) -> str:
        """Where to go on: a page of this service or of a sibling, and nowhere else."""
        if not asked or len(asked) > 1000 or not asked.isprintable() or "\\" in asked:
            return HOME
        if asked.startswith("/") and not asked.startswith("//"):
            return asked
        try:
            return asked if _origin(asked) in {self.forms.origin, *self.form_targets} else HOME
        except ValueError:
            return HOME


class _Pages:
    def __init__(self, sign_in: SignIn, answer: Answer) -> None:
        self._in = sign_in
        self._answer = answer

    async def ask(self, request: Request) -> Response:
        """Sends who is signed in on with a fresh token, and asks everybody else who they are."""
        following = self._in.safe_next(request.query_params.get("next"))
        session = await Deadline().meet(self._session(request))
        if session is None:
            return self._form(request, following)
        response = RedirectResponse(following, 303)
        held = await Deadline().meet(self._held(session.person_id))
        token = self._in.signer.sign(session.person_id, session.acting, {session.acting} & held if session.acting else held)
        self._in.forms.set_cookie(response, TOKEN_COOKIE, token, LIFETIME_SECONDS_MAX)
        return response

    async def by_password(self, request: Request) -> Response:
        """A local account."""
        fields = await self._in.forms.read(request)
        following = self._in.safe_next(fields.get("next"))
        person_id = await Deadline(HASH_SECONDS_MAX).meet(self._in.accounts.check(fields.get("login", ""), fields.get("password", "")))
        if person_id is None:
            return self._failed(request, following)
        key = await Deadline().meet(self._in.accounts.open_session(person_id, "password"))
        return self._failed(request, following) if key is None else self._welcome(person_id, "password", key, following)

    async def ask_link(self, request: Request) -> Response:
        """A link is used by pressing a button: a preview that only opens it leaves it as it was."""
        return self._answered(request, "link", 200, key=request.query_params.get("key", "")[:100])

    async def by_link(self, request: Request) -> Response:
        """The one-time link, used."""
        fields = await self._in.forms.read(request)
        found = await Deadline().meet(self._in.accounts.use_link(fields.get("key", "")))
        if found is None:
            _log.warning("sign_in_failed", reason="link")
            raise ProblemError("link_used")
        person_id, key = found
        return self._welcome(person_id, "link", key, HOME)

    async def to_provider(self, request: Request) -> Response:
        """Off to the provider, with a state that only this browser brings back."""
        client, flow = self._client(), new_flow()
        try:
            address = await client.provider.address(flow, client.id, self._redirect_uri)
        except ProviderError as error:
            _log.error("provider_away", reason=str(error))
            raise ProblemError("provider_away") from None
        await Deadline().meet(self._in.accounts.keep_flow(flow, self._in.safe_next(request.query_params.get("next"))))
        response = RedirectResponse(address, 303)
        self._in.forms.set_cookie(response, _STATE_COOKIE, flow.state, _STATE_SECONDS)
        return response

    async def from_provider(self, request: Request) -> Response:
        """Back from the provider."""
        client, said = self._client(), request.query_params
        state = said.get("state", "")
        issuer = client.provider.issuer
        if not state or state != self._in.forms.cookie(request, _STATE_COOKIE) or said.get("iss", issuer) != issuer:
            raise ProblemError("sign_in_lost")
        kept = await Deadline().meet(self._in.accounts.take_flow(state))
        if kept is None or "code" not in said:
            raise ProblemError("sign_in_lost")
        flow, following = kept
        try:
            person_id = await client.provider.person(flow, said["code"], client.id, client.secret, self._redirect_uri)
        except ProviderError as error:
            _log.error("sign_in_failed", reason=str(error))
            raise ProblemError("provider_away") from None
        key = await Deadline().meet(self._in.accounts.open_session(person_id, "provider"))
        if key is None:
            _log.warning("sign_in_failed", reason="erased")
            raise ProblemError("sign_in_erased")
        response = self._welcome(person_id, "provider", key, following)
        self._in.forms.drop_cookie(response, _STATE_COOKIE)
        return response

    async def account(self, request: Request) -> Response:
        """Who one is, as what one may act, and the password of a local account."""
        session = await Deadline().meet(self._session(request))
        if session is None:
            return RedirectResponse(f"/sign-in?{urlencode({'next': HOME})}", 303)
        return await self._account(request, session)

    async def act_as(self, request: Request) -> Response:
        """Chooses among the roles that are held, or none: what fits, then."""
        fields = await self._in.forms.read(request)
        session = await self._needed(request)
        role, _, unit = fields.get("acting", "").partition("@")
        held = await Deadline().meet(self._held(session.person_id))
        if role and (role, unit) not in held:
            raise ProblemError("role_not_held")
        await Deadline().meet(self._in.accounts.act_as(self._key(request), (role, unit) if role else None))
        return RedirectResponse(f"/sign-in?{urlencode({'next': HOME})}", 303)

    async def set_password(self, request: Request) -> Response:
        """The password of a local account: the present one is asked for, unless a link has just brought the person here."""
        fields = await self._in.forms.read(request)
        session = await self._needed(request)
        if session.way == "provider":
            raise ProblemError("form_invalid")
        if session.way == "password":
            login = await Deadline().meet(self._in.accounts.login_of(session.person_id))
            if (
                login is None
                or await Deadline(HASH_SECONDS_MAX).meet(self._in.accounts.check(login, fields.get("current", ""))) != session.person_id
            ):
                return await self._account(request, session, "password_wrong", 403)
        try:
            setting = self._in.accounts.set_password(
                session.person_id, fields.get("login", ""), fields.get("password", ""), keep=self._key(request)
            )
            is_set = await Deadline(HASH_SECONDS_MAX).meet(setting)
        except PasswordError as error:
            return await self._account(request, session, error.code, 422)
        if not is_set:
            raise ProblemError("sign_in_needed")
        _log.info("password_set", person=logs.pseudonym(str(session.person_id)))
        return await self._account(request, session, "password_set")

    async def sign_out(self, request: Request) -> Response:
        """Ends the session, and lets the browser forget the token."""
        await self._in.forms.read(request)
        await Deadline().meet(self._in.accounts.close_session(self._key(request)))
        response = RedirectResponse("/", 303)
        for name in (_SESSION_COOKIE, TOKEN_COOKIE):
            self._in.forms.drop_cookie(response, name)
        return response

    def _failed(self, request: Request, following: str) -> Response:
        _log.warning("sign_in_failed", reason="password")
        return self._form(request, following, failed=True)

    def _welcome(self, person_id: UUID, way: Way, key: str, following: str) -> Response:
        _log.info("signed_in", way=way, person=logs.pseudonym(str(person_id)))
        response = RedirectResponse(f"/sign-in?{urlencode({'next': following})}", 303)
        self._in.forms.set_cookie(response, _SESSION_COOKIE, key, SESSION_SECONDS_MAX)
        return response

    def _form(self, request: Request, following: str, *, failed: bool = False) -> Response:
        provider = f"/sign-in/provider?{urlencode({'next': following})}" if self._in.client else None
        return self._answered(request, "sign_in", 401 if failed else 200, following=following, provider=provider, failed=failed)

    async def _account(self, request: Request, session: Session, told: str | None = None, status: int = 200) -> Response:
        held = await Deadline().meet(self._held(session.person_id))
        login = await Deadline().meet(self._in.accounts.login_of(session.person_id))
        return self._answered(
            request,
            "account",
            status,
            person_id=session.person_id,
            way=session.way,
            acting=session.acting,
            held=sorted(held),
            login=login,
            told=told,
        )

    def _answered(self, request: Request, template: str, status: int, **shown: Any) -> Response:
        csrf, fresh = self._in.forms.proof(request)
        response = self._answer(request, template, status, csrf=csrf, **shown)
        self._in.forms.remember(response, fresh)
        return response

    async def _session(self, request: Request) -> Session | None:
        key = self._key(request)
        return await self._in.accounts.session(key) if key else None

    async def _needed(self, request: Request) -> Session:
        session = await Deadline().meet(self._session(request))
        if session is None:
            raise ProblemError("sign_in_needed")
        return session

    async def _held(self, person_id: UUID) -> set[tuple[str, str]]:
        return {role for role, holds in (await self._in.roles_of(person_id)).items() if holds}

    def _key(self, request: Request) -> str:
        return self._in.forms.cookie(request, _SESSION_COOKIE) or ""

    def _client(self) -> Client:
        if self._in.client is None:
            raise ProblemError("not_found")
        return self._in.client

    @property
    def _redirect_uri(self) -> str:
        return f"{self._in.forms.origin}/sign-in/callback"


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
