"""Signing in without a provider: by a link, by a password; and what a form must prove."""

from http.cookiejar import Cookie
from uuid import UUID, uuid4

import httpx
import pytest

from shared.http.accounts import TRIES_FREE
from tests.integration.signin.browser import Browser, Outline
from tests.integration.signin.conftest import Site

PASSWORD = "korrekt pferd batterie"
UNIT = "water-saving-office"


async def linked(browser: Browser, site: Site, person: UUID) -> httpx.Response:
    """Somebody uses a link that an operator has given them."""
    await browser.open(await site.link(person))
    return await browser.submit("/sign-in/link")


async def with_password(browser: Browser, site: Site, login: str, password: str = PASSWORD, **more: str) -> httpx.Response:
    await browser.open(f"{site.registration}/sign-in")
    return await browser.submit("/sign-in", login=login, password=password, **more)


def cookie(browser: Browser, name: str) -> Cookie:
    return next(each for each in browser.client.cookies.jar if each.name == name)


async def test_a_link_signs_in_once_and_a_look_at_it_does_not_use_it_up(site: Site, browser: Browser) -> None:
    person = uuid4()
    link = site.typed_link(person)
    async with Browser() as preview:
        assert (await preview.open(link)).status_code == 200
    await browser.open(link)
    page = await browser.submit("/sign-in/link")
    assert str(page.url) == f"{site.registration}/account"
    assert str(person) in page.text
    async with Browser() as thief:
        await thief.open(link)
        answer = await thief.submit("/sign-in/link")
        assert (answer.status_code, "link_used" in answer.text) == (410, True)
        assert not [each for each in thief.client.cookies.jar if each.name in {"leifeng_session", "leifeng_token"}]


async def test_who_came_by_a_link_sets_a_password_and_comes_by_that_from_then_on(site: Site, browser: Browser) -> None:
    person, login = uuid4(), f"Anna.{uuid4().hex[:6]}"
    await linked(browser, site, person)
    for password, told in (("short", "12 to 200"), (f"xx{login}xx", "does not hold the login")):
        page = await browser.submit("/account/password", login=login, password=password)
        assert (page.status_code, told in page.text) == (422, True)
    page = await browser.submit("/account/password", login=login, password=PASSWORD)
    assert (page.status_code, "The password is set" in page.text) == (200, True)
    async with Browser() as another:
        page = await with_password(another, site, login.upper())
        assert str(person) in page.text
        assert (await another.submit("/account/password", login=login, password="another long one", current="wrong")).status_code == 403
        assert (await another.submit("/account/password", login=login, password="another long one", current=PASSWORD)).status_code == 200
        ended = await browser.open(f"{site.registration}/account")
        assert "/sign-in?" in str(ended.url), "the other sessions of the person have ended"
        assert (await with_password(browser, site, login)).status_code == 401
        assert (await with_password(browser, site, login, "another long one")).status_code == 200


async def test_a_login_belongs_to_one_person(site: Site, browser: Browser) -> None:
    login = uuid4().hex
    await linked(browser, site, uuid4())
    await browser.submit("/account/password", login=login, password=PASSWORD)
    async with Browser() as another:
        await linked(another, site, uuid4())
        page = await another.submit("/account/password", login=login.upper(), password="a password of another")
        assert (page.status_code, "taken" in page.text) == (422, True)


async def test_who_guesses_is_locked_out_for_a_while_and_learns_nothing_from_it(site: Site, browser: Browser) -> None:
    login = uuid4().hex
    await linked(browser, site, uuid4())
    await browser.submit("/account/password", login=login, password=PASSWORD)
    async with Browser() as thief:
        answers = [await with_password(thief, site, login, f"guess number {number}") for number in range(TRIES_FREE)]
        answers += [await with_password(thief, site, login), await with_password(thief, site, "nobody at all")]
        assert {each.status_code for each in answers} == {401}
        assert len({len(each.text) for each in answers}) == 1, "all the same"
    await site.sql("registration", "UPDATE signin.account SET locked_until = clock_timestamp() WHERE login = $1", login)
    async with Browser() as owner:
        assert (await with_password(owner, site, login)).status_code == 200


async def test_what_a_session_may_is_looked_up_and_one_role_can_be_chosen(site: Site, browser: Browser) -> None:
    person = uuid4()
    await site.hold(person, "unit_admin", UNIT)
    await site.hold(person, "auditor", "water-bureau")
    page = await linked(browser, site, person)
    assert f"unit_admin@{UNIT}" in page.text
    queue = f"{site.hours}/view/confirm-queue"
    assert (await browser.open(queue)).status_code == 200
    await browser.open(f"{site.registration}/account")
    await browser.submit("/account/acting", acting=f"unit_admin@{UNIT}")
    await site.hold(person, "unit_admin", UNIT, withdrawn=True)
    refused = await browser.open(queue)
    assert (refused.status_code, "role_withdrawn" in refused.text) == (403, True)
    await browser.open(f"{site.registration}/account")
    assert (await browser.submit("/account/acting", acting="bureau_admin@water-bureau")).status_code == 403
    await browser.open(f"{site.registration}/account")
    await browser.submit("/account/acting", acting="")
    assert (await browser.open(queue)).status_code == 200


async def test_what_was_withdrawn_ends_with_the_token_where_nobody_hears_of_it(site: Site, browser: Browser) -> None:
    person, queue = uuid4(), f"{site.hours}/view/confirm-queue"
    await site.hold(person, "auditor", "water-bureau")
    await linked(browser, site, person)
    assert (await browser.open(queue)).status_code == 200
    site.is_deaf = True
    try:
        await site.hold(person, "auditor", "water-bureau", withdrawn=True)
        assert (await browser.open(queue)).status_code == 200, "within the quarter of an hour"
        await browser.open(f"{site.registration}/sign-in")  # What the browser comes back for when its token is over.
        refused = await browser.open(queue)
        assert (refused.status_code, "role_not_allowed" in refused.text) == (403, True)
    finally:
        site.is_deaf = False


async def test_signing_out_ends_the_session_and_the_token_is_forgotten(site: Site, browser: Browser) -> None:
    await linked(browser, site, uuid4())
    key = cookie(browser, "leifeng_session").value or ""
    await browser.open(f"{site.registration}/account")
    await browser.submit("/sign-out")
    assert not [each for each in browser.client.cookies.jar if each.name in {"leifeng_session", "leifeng_token"} and each.value]
    async with Browser() as thief:
        thief.client.cookies.set("leifeng_session", key, domain="127.0.0.1")
        assert "/sign-in?" in str((await thief.open(f"{site.registration}/account")).url)


async def test_a_session_ends_by_itself(site: Site, browser: Browser) -> None:
    person = uuid4()
    over = "UPDATE signin.session SET {} = clock_timestamp() - interval '{}' WHERE person_id = $1"
    for column, ago in (("seen_at", "31 minutes"), ("expires_at", "1 second")):
        await linked(browser, site, person)
        assert str((await browser.open(f"{site.registration}/account")).url) == f"{site.registration}/account"
        await site.sql("registration", over.format(column, ago), person)
        assert "/sign-in?" in str((await browser.open(f"{site.registration}/account")).url), column


async def test_who_was_erased_is_given_no_link_and_one_of_before_signs_nobody_in(site: Site, browser: Browser) -> None:
    person = uuid4()
    before = await site.link(person)
    await site.erase(person)
    asked = site.asked_for_a_link(person)
    assert (asked.returncode, "the data of this person were erased" in asked.stderr, "sign-in/link" in asked.stdout) == (1, True, False)
    await browser.open(before)
    answer = await browser.submit("/sign-in/link")
    assert (answer.status_code, "link_used" in answer.text) == (410, True)


async def test_no_cookie_can_be_read_by_a_script_or_is_brought_along_by_another_sites_form(site: Site, browser: Browser) -> None:
    await linked(browser, site, uuid4())
    answers = [await browser.client.get(f"{site.registration}{path}") for path in ("/sign-in", "/?lang=en")]
    set_now = [each for answer in answers for each in answer.headers.get_list("set-cookie")]
    async with Browser() as fresh:
        set_now += (await fresh.client.get(f"{site.registration}/sign-in")).headers.get_list("set-cookie")
    assert {each.partition("=")[0] for each in set_now} == {"leifeng_token", "lang", "leifeng_form"}
    for each in set_now:
        assert "HttpOnly" in each
        assert "samesite=lax" in each.lower() or "samesite=strict" in each.lower()


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null"])
async def test_a_form_that_another_site_sends_is_refused(site: Site, browser: Browser, origin: str) -> None:
    await linked(browser, site, uuid4())
    answer = await browser.submit("/sign-out", origin=origin)
    assert (answer.status_code, "form_foreign" in answer.text) == (403, True)
    assert str((await browser.open(f"{site.registration}/account")).url) == f"{site.registration}/account"


async def test_a_form_without_the_proof_of_our_own_page_is_refused(site: Site, browser: Browser) -> None:
    await linked(browser, site, uuid4())
    here = {"Origin": site.registration}
    form = next(each for each in Outline(browser.page.text).forms if each.action == "/sign-out")
    address = f"{site.registration}/sign-out"
    for data, headers in (
        ({"a": ""}, here),
        ({"csrf": "0" * 64}, here),
        (form.fields, {}),  # Whoever sends neither Origin nor Sec-Fetch-Site is no browser of today.
        (form.fields, {**here, "Sec-Fetch-Site": "cross-site"}),
        (form.fields, {"Sec-Fetch-Site": "same-site"}),
    ):
        answer = await browser.client.post(address, data=data, headers=headers)
        assert answer.status_code == 403, (data, headers)
    async with Browser() as thief:  # The proof of one browser is none in another.
        await thief.open(f"{site.registration}/sign-in")
        assert (await thief.client.post(address, data=form.fields, headers=here)).status_code == 403
    for content, kind, status in ((b"{}", "application/json", 415), (b"a=" + b"b" * 9000, "application/x-www-form-urlencoded", 413)):
        answer = await browser.client.post(address, content=content, headers={**here, "Content-Type": kind})
        assert answer.status_code == status
    assert (await browser.client.post(address, data=form.fields, headers=here)).status_code == 303


ELSEWHERE = ("https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere.example", "javascript:alert(1)", "http://127.0.0.1:1/")


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
async def test_one_is_sent_on_to_our_own_pages_only(site: Site, browser: Browser, elsewhere: str) -> None:
    await linked(browser, site, uuid4())
    answer = await browser.client.get(f"{site.registration}/sign-in", params={"next": elsewhere})
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    answer = await browser.client.get(f"{site.registration}/sign-in", params={"next": f"{site.hours}/view/ledger?unit=x"})
    assert answer.headers["location"] == f"{site.hours}/view/ledger?unit=x"


async def test_no_secret_stands_in_the_database_or_in_the_log(site: Site, browser: Browser) -> None:
    person, login = uuid4(), uuid4().hex
    link = await site.link(person)
    await browser.open(link)
    await browser.submit("/sign-in/link")
    await browser.submit("/account/password", login=login, password=PASSWORD)
    secrets = [PASSWORD, link.rpartition("=")[2], *(cookie(browser, name).value or "" for name in ("leifeng_session", "leifeng_token"))]
    tables = [await site.sql("registration", f"SELECT * FROM signin.{table}") for table in ("account", "link", "flow", "session")]
    rows = [dict(row) for table in tables for row in table]
    log = (site.folder / "registration-api.log").read_text()
    assert not [each for each in secrets if each in str(rows) or each in log]
    assert str(person) not in log
    assert "signed_in" in log
