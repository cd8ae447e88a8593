"""A bureau's OpenID Connect provider: what it says of itself, its keys, and the authorization code flow with PKCE.

Everything is fetched from the configured issuer or from where that issuer's own discovery document points, over TLS (or on this machine),
without following redirects and with bounds on time and size.
"""

import asyncio
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from time import monotonic, time
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic_core import from_json

from shared import logs
from shared.http.accounts import Flow
from shared.http.auth import Issuer, judge_time, times_of, verified
from shared.http.problems import ProblemError

ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
"""What providers sign with; all of them need a private key."""
ID_TOKEN_TYPES: Final = frozenset({"jwt", ""})
ID_TOKEN_SECONDS_MAX: Final = 24 * 3600
"""An ID token is read once, when it has just come from the provider itself; providers let it live for an hour or a day."""
SUBJECT_CHARACTERS_MAX: Final = 255
ANSWER_BYTES_MAX: Final = 256 * 1024
ANSWER_SECONDS_MAX: Final = 5.0
FRESH_SECONDS: Final = 600.0
"""Between two looks at the provider's keys while all is known."""
AGAIN_SECONDS: Final = 10.0
"""Between two looks while a token names a key that is not known, or the provider does not answer."""

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_log = logs.logger()


class ProviderError(Exception):
    """The provider does not answer, or not as the standard says; the text says what, and nothing secret."""


class Provider:
    """One provider. `refresh` reads what it says; until that has been done once, nobody's token counts."""

    def __init__(self, issuer: str, client: httpx.AsyncClient) -> None:
        """Raises ValueError for an issuer that is neither https nor on this machine."""
        if not _is_safe(issuer):
            raise ValueError("an issuer is an https address, or one on this machine")
        self.issuer = issuer
        self._client = client
        self._said: Mapping[str, Any] = {}
        self._keys = KeySet([])
        self._wanted = asyncio.Event()

    def as_issuer(self, audience: str) -> Issuer:
        """For tokens that the provider gives to others for `audience`. A person's id follows from issuer and `sub`."""
        return Issuer(self.issuer, lambda: self._keys, audience, ALGORITHMS, self.person_of, missed=self._wanted.set)

    def person_of(self, subject: str) -> UUID:
        """The id of whom the provider calls `subject`. Raises ValueError."""
        if not 0 < len(subject) <= SUBJECT_CHARACTERS_MAX:
            raise ValueError("no subject")
        return uuid5(uuid5(NAMESPACE_URL, self.issuer), subject)

    async def keep_fresh(self, stop: asyncio.Event) -> None:
        """Reads again from time to time, and soon when tokens come that may name a new key."""
        while not stop.is_set():
            began = monotonic()
            try:
                await self.refresh()
            except ProviderError as error:
                _log.warning("provider_away", reason=str(error))
                self._wanted.set()
            await _first(stop.wait(), asyncio.sleep(AGAIN_SECONDS))
            self._wanted.clear()
            await _first(stop.wait(), self._wanted.wait(), asyncio.sleep(max(FRESH_SECONDS - (monotonic() - began), 0.0)))

    async def refresh(self) -> None:
        """Reads discovery document and keys. Raises ProviderError, and leaves what was known."""
        said = await self._get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != self.issuer:
            raise ProviderError("the discovery document names another issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not _is_safe(said.get(name)):
                raise ProviderError(f"{name} is neither https nor on this machine")
        found = await self._get(said["jwks_uri"])
        try:
            keys = KeySet.import_key_set({"keys": [each for each in found["keys"] if each.get("use", "sig") == "sig"]})
        except (JoseError, ValueError, KeyError, TypeError, AttributeError):
            raise ProviderError("the keys cannot be read") from None
        self._said, self._keys = said, keys

    async def address(self, flow: Flow, client_id: str, redirect_uri: str) -> str:
        """Where a browser is sent. Raises ProviderError."""
        if not self._said:
            await self.refresh()
        asked = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid",
            "state": flow.state,
            "nonce": flow.nonce,
            "code_challenge": urlsafe_b64encode(sha256(flow.verifier.encode()).digest()).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return f"{self._said['authorization_endpoint']}?{urlencode(asked)}"

    async def person(self, flow: Flow, code: str, client_id: str, client_secret: str | None, redirect_uri: str) -> UUID:
        """Who came back with `code`, as the provider says to us itself. Raises ProviderError."""
        asked = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": flow.verifier,
            **({} if client_secret else {"client_id": client_id}),
        }
        # RFC 6749 2.3.1 has both parts form-encoded before they are put together.
        auth = httpx.BasicAuth(urlencode({"": client_id})[1:], urlencode({"": client_secret})[1:]) if client_secret else None
        answer = await self._ask("POST", str(self._said.get("token_endpoint")), data=asked, auth=auth)
        token = answer.get("id_token")
        if not isinstance(token, str) or len(token) > ANSWER_BYTES_MAX:
            raise ProviderError("the provider gave no ID token")
        try:
            claims = verified(token, self._keys, ALGORITHMS, ID_TOKEN_TYPES)
        except ProblemError:
            await self.refresh()  # It may have been signed with a key that is newer than what we know.
            try:
                claims = verified(token, self._keys, ALGORITHMS, ID_TOKEN_TYPES)
            except ProblemError:
                raise ProviderError("the ID token is signed by nobody we know") from None
        return self._judged(claims, flow, client_id)

    def _judged(self, claims: dict[str, Any], flow: Flow, client_id: str) -> UUID:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != self.issuer or client_id not in audiences or claims.get("azp", client_id) != client_id:
            raise ProviderError("the ID token is for somebody else")
        if len(audiences) > 1 and "azp" not in claims:
            raise ProviderError("the ID token does not say whom it is for")
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), flow.nonce.encode()):
            raise ProviderError("the ID token answers another question")
        try:
            judge_time(*times_of(claims, ID_TOKEN_SECONDS_MAX), time())
            return self.person_of(claims["sub"])
        except (ProblemError, KeyError, TypeError, ValueError):
            raise ProviderError("the ID token is out of its time, or of nobody") from None

    async def _get(self, address: str) -> dict[str, Any]:
        return await self._ask("GET", address)

    async def _ask(self, method: str, address: str, **asked: Any) -> dict[str, Any]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX), self._client.stream(method, address, follow_redirects=False, **asked) as answer:
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > ANSWER_BYTES_MAX:
                        raise ProviderError("the provider answers at too great length")
            if answer.status_code != httpx.codes.OK:
                raise ProviderError(f"the provider answers {answer.status_code}")
            found = from_json(bytes(body))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            raise ProviderError(f"the provider cannot be asked ({type(error).__name__})") from None
        if not isinstance(found, dict):
            raise ProviderError("the provider does not answer with an object")
        return found


def _is_safe(address: Any) -> bool:
    try:
        parts = urlsplit(address if isinstance(address, str) else "")
        return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK))
    except ValueError:
        return False


async def _first(*waiting: Any) -> None:
    """Until one of them has come."""
    tasks = [asyncio.ensure_future(each) for each in waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in tasks:
            each.cancel()
