"""What pages need to be written to: a form's fields read strictly, proof that it is our own page that sent it, and cookies.

A form carries a keyed hash of a random cookie that no other site can read or set, and the browser must say that the request comes from the
same origin. Both have to hold.
"""

import hmac
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from shared.http.problems import ProblemError

FORM_BYTES_MAX: Final = 8 * 1024
FIELDS_MAX: Final = 20
CSRF_FIELD: Final = "csrf"
_FORM_COOKIE: Final = "leifeng_form"


class Forms:
    """`key` is the service's own; `public_url` is where browsers reach it, and decides whether cookies need TLS."""

    def __init__(self, key: bytes, public_url: str) -> None:
        self._key = key
        parts = urlsplit(public_url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.is_secure = parts.scheme == "https"

    def cookie_name(self, name: str) -> str:
        """With TLS the browser itself sees to it that nobody else sets it."""
        return f"__Host-{name}" if self.is_secure else name

    def cookie(self, request: Request, name: str) -> str | None:
        """The cookie of this name."""
        return request.cookies.get(self.cookie_name(name))

    def set_cookie(self, response: Response, name: str, value: str, seconds: int, *, strict: bool = False) -> None:
        """A cookie that no script reads and no other site's form brings along."""
        response.set_cookie(
            self.cookie_name(name), value, max_age=seconds, path="/", httponly=True, secure=self.is_secure,
            samesite="strict" if strict else "lax",
        )  # fmt: skip

    def drop_cookie(self, response: Response, name: str) -> None:
        """Lets the browser forget it."""
        self.set_cookie(response, name, "", 0)

    def proof(self, request: Request) -> tuple[str, str | None]:
        """What a form must carry, and the cookie to set for it where the browser has none yet."""
        known = self.cookie(request, _FORM_COOKIE)
        value = known if known and len(known) <= 100 else secrets.token_urlsafe(32)
        return self._mark(value), None if value == known else value

    def remember(self, response: Response, fresh: str | None) -> None:
        """Sets the cookie that `proof` asked for."""
        if fresh is not None:
            self.set_cookie(response, _FORM_COOKIE, fresh, 12 * 3600, strict=True)

    async def read(self, request: Request) -> Mapping[str, str]:
        """The fields of a form that one of our pages sent. Raises ProblemError (400, 403, 413, 415)."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
            raise ProblemError("form_unsupported")
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if (site is not None and site != "same-origin") or (origin is not None and origin != self.origin) or site is origin is None:
            raise ProblemError("form_foreign")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > FORM_BYTES_MAX:
                raise ProblemError("body_too_large", bytes_max=FORM_BYTES_MAX)
        try:
            pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=FIELDS_MAX, errors="strict")
        except ValueError:
            raise ProblemError("form_invalid") from None
        fields = dict(pairs)
        if len(fields) != len(pairs) or any("\x00" in value for value in fields.values()):
            raise ProblemError("form_invalid")
        cookie = self.cookie(request, _FORM_COOKIE)
        if cookie is None or not hmac.compare_digest(fields.pop(CSRF_FIELD, "").encode(), self._mark(cookie).encode()):
            raise ProblemError("form_foreign")
        return fields

    def _mark(self, value: str) -> str:
        return hmac.digest(self._key, value.encode("utf-8", "replace"), sha256).hex()
