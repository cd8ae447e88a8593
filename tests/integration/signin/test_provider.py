"""Signing in at a certified OpenID Connect provider, and the tokens that it gives to programs."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from shared.http.provider import Provider
from tests.integration.signin.browser import Browser
from tests.integration.signin.conftest import Site, installed
from tests.loopback import NO_TLS

pytestmark = installed

UNIT = "water-saving-office"


async def signed_in(browser: Browser, site: Site, login: str, start: str | None = None) -> httpx.Response:
    """The way of somebody who has an account at the provider, from a page to the same page."""
    await browser.open(start or f"{site.registration}/sign-in")
    if start is not None:
        await browser.click("/sign-in")
    await browser.click("/sign-in/provider")
    assert str(browser.page.url).startswith(site.issuer)
    await browser.submit("", login=login, password="whatever")  # The provider's own pages: who, and whether.
    if str(browser.page.url).startswith(site.issuer):
        await browser.submit("")
    return browser.page


async def eventually(ask: Callable[[], Awaitable[httpx.Response]], status: int) -> httpx.Response:
    """What is read in the background is there in time."""
    end = monotonic() + 20
    while (answer := await ask()).status_code != status:
        assert monotonic() < end, answer.text
        await asyncio.sleep(0.2)
    return answer


async def test_a_page_that_is_not_everybodys_asks_who_one_is_and_shows_itself_to_who_may(
    site: Site, provider: Provider, browser: Browser
) -> None:
    page = f"{site.hours}/view/confirm-queue"
    asked = await browser.open(page)
    assert (asked.status_code, "sign_in_needed" in asked.text) == (401, True)
    shown = await signed_in(browser, site, "anna", page)
    assert str(shown.url) == page
    assert (shown.status_code, "role_not_allowed" in shown.text) == (403, True)
    await site.hold(provider.person_of("anna"), "unit_admin", UNIT)
    assert (await browser.open(page)).status_code == 403, "the token says what was held when it was made"
    shown = await browser.click("/sign-in?")
    assert (str(shown.url), shown.status_code) == (page, 200)
    await site.hold(provider.person_of("anna"), "unit_admin", UNIT, withdrawn=True)
    assert (await browser.open(page)).status_code == 403


async def test_who_one_is_follows_from_the_providers_word_and_stays_the_same(site: Site, provider: Provider, browser: Browser) -> None:
    shown = await signed_in(browser, site, "berta")
    assert str(shown.url) == f"{site.registration}/account"
    assert str(provider.person_of("berta")) in shown.text
    assert "/account/password" not in shown.text  # The provider has it.
    async with Browser() as another:
        assert str(provider.person_of("berta")) in (await signed_in(another, site, "berta")).text


async def test_whom_the_provider_knows_and_whose_data_were_erased_is_not_signed_in_as_who_they_were(
    site: Site, provider: Provider, browser: Browser
) -> None:
    await site.erase(provider.person_of("dora"))
    answer = await signed_in(browser, site, "dora")
    assert (answer.status_code, "sign_in_erased" in answer.text) == (410, True)
    assert not [each for each in browser.client.cookies.jar if each.name in {"leifeng_session", "leifeng_token"} and each.value]
    assert "/sign-in?" in str((await browser.open(f"{site.registration}/account")).url)


async def test_what_comes_back_counts_once_and_in_the_browser_that_went(site: Site, provider: Provider, browser: Browser) -> None:
    await signed_in(browser, site, "clara")
    async with Browser() as another:
        await another.open(f"{site.registration}/sign-in")
        await another.click("/sign-in/provider")
        state = parse_qs(urlsplit(another.seen[1]).query)["state"][0]
        wrong = ((browser, f"code=x&state={state}"), (another, "code=x&state=other"), (another, f"state={state}&error=access_denied"))
        for who, said in wrong:
            answer = await who.open(f"{site.registration}/sign-in/callback?{said}")
            assert (answer.status_code, "sign_in_lost" in answer.text) == (400, True), said
        answer = await another.open(f"{site.registration}/sign-in/callback?code=x&state={state}")
        assert answer.status_code == 400, "the state was used up"


async def test_a_code_that_the_provider_did_not_give_signs_nobody_in(site: Site, provider: Provider, browser: Browser) -> None:
    await browser.open(f"{site.registration}/sign-in")
    await browser.click("/sign-in/provider")
    asked = parse_qs(urlsplit(browser.seen[1]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["response_type"] == ["code"]
    answer = await browser.open(f"{site.registration}/sign-in/callback?code=forged&state={asked['state'][0]}")
    assert (answer.status_code, "provider_away" in answer.text) == (502, True)
    assert str((await browser.open(f"{site.registration}/account")).url).startswith(f"{site.registration}/sign-in")


async def test_a_program_with_a_token_of_the_provider_may_what_its_role_may(site: Site, provider: Provider) -> None:
    async with httpx.AsyncClient(timeout=5, verify=NO_TLS) as client:

        async def token(resource: str) -> dict[str, str]:
            asked = {"grant_type": "client_credentials", "resource": resource}
            given = await client.post(f"{site.issuer}/token", data=asked, auth=("program", "of-a-program"))
            return {"Authorization": f"Bearer {given.json()['access_token']}"}

        good = await token("urn:leifeng:api")

        async def read(headers: dict[str, str]) -> httpx.Response:
            return await client.get(f"{site.hours}/api/v1/confirm-queue", headers=headers)

        refused = await eventually(lambda: read(good), 403)
        assert refused.json()["code"] == "role_not_allowed"
        await site.hold(provider.person_of("program"), "auditor", "water-bureau")
        assert (await read(good)).status_code == 200
        assert (await read({**good, "Acting-As": "bureau_admin@water-bureau"})).json()["code"] == "role_not_held"
        for resource, why in (("urn:another:api", "for another system"), ("urn:leifeng:long", "for another system, and for an hour")):
            answer = await read(await token(resource))
            assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid"), why


async def test_a_token_of_the_provider_names_no_role_that_is_believed(site: Site, provider: Provider) -> None:
    person = provider.person_of("program")
    assert person not in {provider.person_of("programme"), provider.person_of("Program")}
    with pytest.raises(ValueError, match="no subject"):
        provider.person_of("")
