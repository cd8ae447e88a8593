"""A browser as far as signing in needs one: cookies, redirects, links and forms."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpx

from tests.loopback import NO_TLS

REDIRECTS_MAX = 15


@dataclass
class Form:
    """A form of a page: where it goes, and what it holds already."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)


class Outline(HTMLParser):
    """The links and the forms of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.forms: list[Form] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in said:
            self.links.append(said["href"])
        if tag == "form" and said.get("method", "").lower() == "post":
            self.forms.append(Form(said.get("action", "")))
        if tag == "input" and self.forms and said.get("type") == "hidden":
            self.forms[-1].fields[said["name"]] = said.get("value", "")


class Browser:
    """One person's. `page` is what it shows, `seen` the addresses it came by."""

    def __init__(self) -> None:
        self.client = httpx.AsyncClient(timeout=30, cookies={"lang": "en"}, verify=NO_TLS)
        self.page: httpx.Response = httpx.Response(204)
        self.seen: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.client.aclose()

    async def open(self, address: str) -> httpx.Response:
        """Goes to an address, and on to where that sends it."""
        return await self._follow(await self.client.get(address))

    async def click(self, part: str) -> httpx.Response:
        """Follows the link that has `part` in its address."""
        link = next(each for each in Outline(self.page.text).links if part in each)
        return await self.open(urljoin(str(self.page.url), link))

    async def submit(self, action: str, *, origin: str | None = None, **fields: str) -> httpx.Response:
        """Sends the page's form whose address ends in `action`, as filled in."""
        form = next(each for each in Outline(self.page.text).forms if each.action.endswith(action))
        here = urlsplit(str(self.page.url))
        headers = {"Origin": origin or f"{here.scheme}://{here.netloc}"}
        address = urljoin(str(self.page.url), form.action)
        return await self._follow(await self.client.post(address, data={**form.fields, **fields}, headers=headers))

    async def _follow(self, answer: httpx.Response) -> httpx.Response:
        self.seen = [str(answer.url)]
        while answer.is_redirect:
            assert len(self.seen) < REDIRECTS_MAX, self.seen
            answer = await self.client.get(urljoin(str(answer.url), answer.headers["location"]))
            self.seen.append(str(answer.url))
        self.page = answer
        return answer
