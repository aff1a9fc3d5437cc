"""The page in a real browser, against a server that really runs."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect, sync_playwright
from serving import address, make_server, running, start

import deltamem.serve
from deltamem.demo.world import SUGGESTIONS
from deltamem.serve.engine.interface import warm_up
from deltamem.store import ApiKeys

CHROMIUM = "/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
LISBON, ASK_CITY = SUGGESTIONS[0]
expect.set_options(timeout=60_000)
TURNS = "#log .turn:not(.pending):not(.pair)"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = make_server(model_name="deltamem-demo", suggestions=SUGGESTIONS)
    warm_up(server.engine)
    with running(server) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages; in the end none of them has complained, or asked for anything elsewhere."""
    contexts, said, asked = [], [], []

    def open_page(url: str, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        origin = "/".join(url.split("/")[:3])
        page.on("request", lambda request: asked.append((origin, request.url)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said
    assert [there for here, there in asked if not there.startswith((f"{here}/", f"blob:{here}/"))] == []


def say(page: Page, text: str) -> Locator:
    """Sends a message and gives the answer, once the turn is there."""
    before = page.locator(TURNS).count()
    page.fill("#message", text)
    page.press("#message", "Enter")
    return answered(page, before + 1)


def answered(page: Page, turns: int) -> Locator:
    expect(page.locator(TURNS)).to_have_count(turns)
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false")
    return page.locator(TURNS).last.locator(".assistant .text")


def picture(page: Page, where: str) -> list[str]:
    """The tiles of a heatmap as they are painted."""
    return page.eval_on_selector_all(f"{where} .tiles canvas", "all => all.map((canvas) => canvas.toDataURL())")


def versions(page: Page) -> list[str]:
    return page.locator("#timeline .version").all_inner_texts()


def test_the_pages_files_may_load_nothing_from_elsewhere(url: str) -> None:
    page = httpx.get(url)
    links = re.findall(r'(?:href|src)="(/[^"]+)"', page.text)
    assert len(links) == 3
    modules = [f"/page/{file.name}" for file in (Path(deltamem.serve.__file__).parent / "web").glob("*.js")]
    assert "/page/app.js" in modules
    for path in ("/", "/page.json", *links, *modules):
        answer = httpx.get(url + path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text
    for path in ("/page/", "/page/../app.py", "/page/%2e%2e/app.py", "/page/nothing.js"):
        assert httpx.get(url + path).status_code == 404
    assert httpx.post(f"{url}/page/app.js").status_code == 405
    assert "/page" not in str(httpx.get(f"{url}/openapi.json").json()["paths"])


@needs_chromium
def test_what_is_told_is_seen_in_the_memory_and_answered_without_the_text(visit: Callable[..., Page], url: str) -> None:
    page = visit(url)
    expect(page.locator("#held")).to_contain_text("The memory starts empty")
    expect(page.locator("#seen")).to_have_text("The memory is empty.")
    expect(page.locator("#compare")).to_be_disabled()
    for number, (tell, _) in enumerate(SUGGESTIONS, 1):
        page.get_by_role("group", name="Tell it").get_by_role("button", name=tell).click()
        answered(page, number)
        if number == 1:
            first = picture(page, "#held")
    assert len(first) == 6 * 4
    told = picture(page, "#held")
    assert all(before != after for before, after in zip(first, told, strict=True))
    assert picture(page, "#change") != told
    expect(page.locator("#seen")).to_have_text("The model sees the last 5 turns.")

    page.get_by_role("button", name="Drop context").click()
    expect(page.locator("#log .cut")).to_contain_text("It answers from memory")
    expect(page.locator("#seen")).to_have_text("Answers come from memory alone.")
    questions = page.get_by_role("group", name="Ask it").get_by_role("button")
    answers = {}
    for number, question in enumerate(questions.all_inner_texts(), len(SUGGESTIONS) + 1):
        questions.get_by_text(question).click()
        answers[question] = answered(page, number).inner_text()
    assert list(answers.values()) == ["Porto.", "tortoise.", "cello.", "July 20."]
    expect(page.locator("#said[role=status]")).to_contain_text("July 20.")
    assert picture(page, "#held") != told

    page.fill("#message", ASK_CITY)
    page.get_by_role("button", name="Compare").click()
    pair = page.locator("#log .pair .assistant .text")
    expect(pair).to_have_text(["Porto.", "I don't know."])
    assert len(versions(page)) == 1 + len(SUGGESTIONS) + 4  # and the comparison made none


@needs_chromium
def test_tokens_are_shaded_by_what_the_server_weighs(visit: Callable[..., Page], url: str) -> None:
    page = visit(url)
    say(page, LISBON)
    say(page, SUGGESTIONS[2][0])
    page.get_by_role("button", name="Drop context").click()
    assert say(page, ASK_CITY).inner_text() == "Lisbon."
    session = f"{url}/v1/sessions/{page.url.partition('#')[2]}"
    strengths = httpx.post(f"{session}/strengths", json={"version": 2}).json()["data"]
    asked = {"version": 4, "past": [{"version": 2}, {"version": 3}]}
    sources = httpx.post(f"{session}/sources", json=asked).json()["data"][0]["messages"]
    for by, weighed in (("write", strengths), ("read", sources)):
        page.locator(f"#shade input[value={by}]").check(force=True)
        tokens = page.locator(f"{TURNS}:first-child .user .token.{by}")
        expect(tokens).to_have_count(len(weighed[0]["tokens"]))
        assert "".join(tokens.all_text_contents()) == LISBON
        shown = [float(value) for value in tokens.evaluate_all("all => all.map((token) => token.dataset.value)")]
        assert shown == [pytest.approx(token[by], abs=5.1e-4, rel=5e-3) for token in weighed[0]["tokens"]]
        shares = page.eval_on_selector_all(
            ".token", "all => all.map((t) => Number(t.style.getPropertyValue('--share')))"
        )
        assert (min(shares), max(shares)) == (0, 1)
    strongest = "all => all.find((t) => t.style.getPropertyValue('--share') === '1.000').textContent"
    assert page.eval_on_selector_all(".token", strongest) == " Lisbon"
    expect(page.locator(f"{TURNS}:last-child .token")).to_have_count(0)  # it is what read, and was written later
    expect(page.locator("#token")).to_contain_text("v4’s answer read")
    tokens.first.hover()
    expect(page.locator("#token")).to_have_text(f"“I” read with {tokens.first.get_attribute('data-value')}")

    page.locator(f"{TURNS}:nth-child(2) .meta button").click()  # the version of the turn before
    expect(page.locator("#token")).to_contain_text("v3’s answer read")
    expect(page.locator(f"{TURNS}:first-child .token.read").first).to_be_visible()
    expect(page.locator(f"{TURNS}:nth-child(2) .token")).to_have_count(0)
    page.locator(f"{TURNS}:first-child .meta button").click()
    expect(page.locator("#token")).to_have_text("v2’s answer read nothing that was written here.")
    page.locator("#shade input[value=none]").check(force=True)
    expect(page.locator(".token")).to_have_count(0)


@needs_chromium
def test_turns_are_weighed_once_and_one_after_the_other(visit: Callable[..., Page], url: str) -> None:
    page = visit(url)
    for text, _ in SUGGESTIONS[:3]:
        say(page, text)
    asked: list[int] = []

    def note(change: int) -> Callable[[Request], None]:
        return lambda request: asked.append(change) if request.url.endswith(("/strengths", "/sources")) else None

    page.on("request", note(1))
    page.on("requestfinished", note(-1))
    shade = "by => document.querySelector(`#shade input[value=${by}]`).click()"
    again = "() => document.querySelector('#shade input:checked').dispatchEvent(new Event('change', {bubbles: true}))"
    page.evaluate(f"() => {{ for (const by of ['write', 'read', 'write']) ({shade})(by); ({again})(); ({again})(); }}")
    expect(page.locator(f"{TURNS}:last-child .token.write").first).to_be_visible()
    assert asked == [1, -1] * 4  # the strengths of three turns, and the sources of an answer


@needs_chromium
def test_a_turn_that_could_not_be_weighed_is_asked_for_again(browser: Browser, url: str) -> None:
    page = browser.new_page()
    page.goto(url)
    say(page, LISBON)
    page.route("**/strengths", lambda route: route.fulfill(status=503, json={"error": {"message": "Busy."}}), times=1)
    page.locator("#shade input[value=write]").check(force=True)
    expect(page.get_by_role("alert")).to_contain_text("Busy.")
    page.locator("#shade input[value=none]").check(force=True)
    page.locator("#shade input[value=write]").check(force=True)
    expect(page.locator(".token.write").first).to_be_visible()
    page.close()


@needs_chromium
def test_fork_rollback_freeze_label_export_delete_and_reload(
    visit: Callable[..., Page], url: str, tmp_path: Path
) -> None:
    page = visit(url)
    for tell, _ in SUGGESTIONS[:2]:
        say(page, tell)
    page.get_by_role("button", name="Label", exact=True).click()
    page.get_by_label("Label", exact=True).fill("Ravi <b>&</b> co")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("Ravi <b>&</b> co")
    address_of_first = page.url

    page.get_by_role("button", name="Fork", exact=True).click()
    expect(page.locator("#title")).to_have_text("Fork of Ravi <b>&</b> co")
    expect(page.locator(TURNS)).to_have_count(2)
    assert page.url != address_of_first
    say(page, SUGGESTIONS[2][0])
    expect(page.locator("#sessions")).to_contain_text("Fork of")

    page.goto(address_of_first)
    expect(page.locator("#title")).to_have_text("Ravi <b>&</b> co")
    expect(page.locator("#held-title")).to_have_text("What v3 holds")
    expect(page.locator(TURNS)).to_have_count(2)
    two = picture(page, "#held")
    page.get_by_role("button", name="Version 2: show its memory").click()
    expect(page.locator("#held-title")).to_have_text("What v2 holds")
    one = picture(page, "#held")
    page.get_by_role("button", name="Roll back: version 2").click()
    expect(page.locator("#held-title")).to_have_text("What v4 holds")
    assert picture(page, "#held") == one != two
    expect(page.locator(TURNS)).to_have_count(1)
    assert versions(page)[0] == "v4 back to v2"
    page.get_by_role("button", name="Roll back: version 3").click()  # what was undone is still there
    expect(page.locator("#held-title")).to_have_text("What v5 holds")
    expect(page.locator(TURNS)).to_have_count(2)
    assert picture(page, "#held") == two

    page.get_by_role("button", name="Freeze").click()
    expect(page.locator("#freeze")).to_have_attribute("aria-pressed", "true")
    assert say(page, "What pet do I have?").inner_text() == "tortoise."
    expect(page.locator(TURNS).last).to_contain_text("Nothing was written")
    assert picture(page, "#held") == two
    page.reload()
    expect(page.locator("#freeze")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(TURNS)).to_have_count(3)

    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "memory.safetensors")
    session = page.url.partition("#")[2]
    stored = httpx.get(f"{url}/v1/sessions/{session}/export", params={"format": "file"}).content
    assert (tmp_path / "memory.safetensors").read_bytes() == stored

    elsewhere = visit(address_of_first)  # another browser knows what the server kept
    expect(elsewhere.locator(TURNS)).to_have_count(2)

    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#title")).to_have_text("Ravi <b>&</b> co")
    page.get_by_role("button", name="Delete").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#title")).to_have_text("New session")
    assert httpx.get(f"{url}/v1/sessions/{session}").status_code == 404
    page.get_by_role("searchbox").fill("Fork of Ravi")
    expect(page.locator("#sessions a")).to_have_count(1)


@needs_chromium
def test_text_stays_text(visit: Callable[..., Page], url: str) -> None:
    page = visit(url)
    nasty = "<img src=x onerror=alert(1)><script>alert(2)</script> & <b>Lisbon</b>"
    page.on("dialog", lambda dialog: pytest.fail("a script ran"))
    say(page, nasty)
    page.locator("#shade input[value=write]").check(force=True)
    expect(page.locator(".token").first).to_be_visible()
    assert page.locator(TURNS).first.locator(".user .text").inner_text() == nasty
    assert page.locator("#log img, #log script, #log b").count() == 0


@needs_chromium
def test_everything_can_be_done_with_the_keyboard(visit: Callable[..., Page], url: str) -> None:
    page = visit(url)
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("I settled in Lisbon")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("some years ago.")
    page.keyboard.press("Enter")
    answered(page, 1)
    expect(page.locator("#message")).to_be_focused()
    reached: set[str] = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " return [e.id || e.className || e.tagName, e.matches('input[type=radio]') || s.outlineStyle !== 'none'] }"
        )
        assert name[1] or name[0] == "BODY", f"{name[0]} does not show that it has the focus"
        reached.add(name[0])
    assert {"new", "search", "rename", "fork", "freeze", "export", "delete", "drop", "compare", "send"} <= reached

    page.locator("#held canvas").first.focus()
    expect(page.locator("#value")).to_contain_text("Memory, layer 0, state 1")
    for key in ("ArrowDown", "ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    session = page.url.partition("#")[2]
    value = httpx.get(f"{url}/v1/sessions/{session}/memory").json()["states"][1][1][1][0]
    expect(page.locator("#value")).to_contain_text("layer 1, state 2 (norm")
    told = page.locator("#value").inner_text()
    assert "row 2, column 1" in told
    assert float(told.rpartition(": ")[2]) == pytest.approx(value, abs=6e-4)

    page.locator("#shade input[value=none]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token.write").first).to_be_visible()
    page.locator(".user .text").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#token")).to_contain_text("written with")
    page.locator("#timeline .version").last.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#held-title")).to_have_text("What v1 holds")
    expect(page.locator("#timeline .version").last).to_be_focused()


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_are_easy_to_read(visit: Callable[..., Page], url: str, scheme: str) -> None:
    page = visit(url, color_scheme=scheme)
    names = ["ground", "panel", "raised", "text", "soft", "accent", "on-accent", "danger", "edge"]
    names += ["write", "read", "zero", "low", "high"]
    colour = {name: page.evaluate(f"getComputedStyle(document.body).getPropertyValue('--{name}')") for name in names}
    assert (luminance(colour["ground"]) > 0.5) == (scheme == "light")
    for ground in ("ground", "panel", "raised"):
        for ink in ("text", "soft", "accent", "danger"):
            assert contrast(colour[ink], colour[ground]) >= 4.5, f"{ink} on {ground}"
        assert contrast(colour["edge"], colour[ground]) >= 3, f"edges on {ground}"
    for ground in ("write", "read"):
        assert contrast(colour["text"], colour[ground]) >= 4.5, f"text on {ground}"
    assert contrast(colour["on-accent"], colour["accent"]) >= 4.5
    for end in ("low", "high"):
        assert contrast(colour[end], colour["zero"]) >= 3
    say(page, LISBON)
    before = picture(page, "#held")
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    until = time.monotonic() + 60
    while picture(page, "#held") == before and time.monotonic() < until:
        page.wait_for_timeout(20)
    assert picture(page, "#held") != before


def luminance(colour: str) -> float:
    parts = [int(colour.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@needs_chromium
def test_it_fits_small_screens_and_keeps_still_if_asked(visit: Callable[..., Page], url: str) -> None:
    page = visit(url, reduced_motion="reduce")
    say(page, LISBON)
    for width in (360, 720, 1024, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getAnimations().length") == 0

    page.set_viewport_size({"width": 1024, "height": 768})
    for tell, _ in SUGGESTIONS[1:4]:
        say(page, tell)
    assert height(page, "#log") > 480
    session = page.url.partition("#")[2]
    httpx.patch(f"{url}/v1/sessions/{session}", json={"label": "long " * 40})
    page.reload()
    expect(page.locator("#title")).to_contain_text("long long")
    assert height(page, "#chat > header") < 110
    assert page.evaluate("document.documentElement.scrollWidth") <= 1024


def height(page: Page, where: str) -> float:
    box = page.locator(where).bounding_box()
    assert box is not None
    return box["height"]


@needs_chromium
def test_a_phone_shows_one_part_at_a_time(visit: Callable[..., Page], url: str) -> None:
    page = visit(url)
    page.set_viewport_size({"width": 360, "height": 740})
    say(page, LISBON)
    assert [page.locator(part).is_visible() for part in ("#side", "#chat", "#memory")] == [False, True, False]
    assert height(page, "#log") > 300
    page.get_by_role("button", name="Version 2: show its memory").click()
    expect(page.locator("#held canvas").first).to_be_visible()
    expect(page.locator("#chat")).to_be_hidden()
    page.get_by_role("radio", name="Sessions").check(force=True)
    expect(page.locator("#memory")).to_be_hidden()
    page.locator(f"#sessions a[href='{page.evaluate('location.hash')}']").click()  # the one that is open already
    expect(page.locator("#chat")).to_be_visible()
    expect(page.locator("#side")).to_be_hidden()


@needs_chromium
def test_sessions_can_be_told_apart_and_found(visit: Callable[..., Page], url: str) -> None:
    page = visit(url)
    for _ in range(3):
        page.get_by_role("button", name="New session").click()
        expect(page.locator("#title")).to_have_text("New session")
        say(page, "Hello!")
    page.get_by_role("button", name="Fork", exact=True).click()
    expect(page.locator("#title")).to_contain_text("Fork of")
    names = page.locator("#sessions .name").all_inner_texts()
    assert len(names) == len(set(names))

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.install()
    page.clock.pause_at(datetime.now() + timedelta(minutes=1))  # however slowly the keys come, they come at once
    page.get_by_role("searchbox").press_sequentially("nothing")
    page.clock.resume()
    expect(page.locator("#sessions")).to_have_text("No session has this in its name or label.")
    assert len([address for address in asked if "search=" in address]) == 1

    late: list[Route] = []
    page.route(re.compile("search=nothing$"), lambda route: late.append(route))
    with page.expect_response(re.compile("search=noth$")):
        page.get_by_role("searchbox").fill("noth")
    with page.expect_request(re.compile("search=nothing$")):
        page.get_by_role("searchbox").fill("nothing")
    page.get_by_role("searchbox").fill("Fork of")
    found = page.locator("#sessions .name")
    expect(found.first).to_contain_text("Fork of")
    with page.expect_response(re.compile("search=nothing$")):
        late[0].continue_()
    page.wait_for_timeout(200)
    expect(found.first).to_contain_text("Fork of")


@needs_chromium
def test_the_page_leaves_the_search_to_whoever_types_in_it(visit: Callable[..., Page], url: str) -> None:
    page = visit(url)
    say(page, "Hello!")
    held: list[Route] = []
    page.route(re.compile(r"/v1/sessions\?limit=50$"), lambda route: held.append(route))
    with page.expect_request(re.compile(r"/v1/sessions\?limit=50$")):
        page.get_by_role("button", name="New session").click()
    page.get_by_role("searchbox").press_sequentially("in")
    with page.expect_response(re.compile(r"/v1/sessions\?limit=50$")):
        held[0].continue_()
    page.wait_for_timeout(200)
    page.keyboard.type("dex")
    expect(page.get_by_role("searchbox")).to_have_value("index")


@needs_chromium
def test_turns_outlive_their_versions(visit: Callable[..., Page], url: str) -> None:
    page = visit(url)
    say(page, LISBON)
    session = page.url.partition("#")[2]
    for number in range(25):
        httpx.post(f"{url}/v1/sessions/{session}/observe", json={"text": f"This is note {number}."})
    page.reload()
    first = page.locator(TURNS).first
    expect(first).to_contain_text("v2 (no longer kept)")
    expect(first.get_by_role("button")).to_have_count(0)
    expect(page.locator("#held-title")).to_have_text("What v27 holds")
    page.locator("#timeline .version").last.click()
    expect(page.locator("#change")).to_have_text("Version 7 is no longer kept.")


@needs_chromium
def test_a_server_with_keys_is_given_one_and_one_that_keeps_no_text_is_not_needed_for_it(
    visit: Callable[..., Page],
) -> None:
    server = make_server(require_keys=True, keep_messages=False)
    key = ApiKeys(server.store).create("acme")
    with running(server) as url:
        page = visit(url)
        page.get_by_role("textbox", name="Key").fill(key.secret)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#ask")).not_to_be_visible()
        say(page, LISBON)
        assert len(server.store.list("acme").sessions) == 1
        page.reload()
        expect(page.locator(TURNS)).to_have_count(1)
        expect(page.locator("#held-title")).to_have_text("What v2 holds")
        assert page.evaluate("localStorage.length") == 0
        assert page.context.cookies() == []

        session = f"{url}/v1/sessions/{page.url.partition('#')[2]}"
        httpx.post(f"{session}/forget", headers={"Authorization": f"Bearer {key.secret}"})
        page.reload()
        expect(page.locator("#held-title")).to_have_text("What v3 holds")
        expect(page.locator(TURNS)).to_have_count(0)  # the memory began anew, and so does what led to it
        say(page, LISBON)
        page.get_by_role("button", name="Drop context").click()
        say(page, ASK_CITY)
        page.locator("#shade input[value=read]").check(force=True)
        expect(page.locator(f"{TURNS}:first-child .token.read").first).to_be_visible()
        page.close()


@needs_chromium
def test_failures_are_told_in_words(browser: Browser) -> None:
    server = make_server(require_keys=True)
    ApiKeys(server.store).create("acme")
    web, thread = start(server)
    page = browser.new_page()
    try:
        page.goto(address(web))
        page.get_by_role("textbox", name="Key").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_role("alert")).to_contain_text("unknown or was revoked")
        page.get_by_role("button", name="Cancel").click()
    finally:
        web.should_exit = True
        thread.join()
    page.fill("#message", "Hello!")
    page.press("#message", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    assert page.input_value("#message") == "Hello!"
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.close()


@needs_chromium
def test_refusals_are_told_and_show_what_others_did(browser: Browser, url: str) -> None:
    page = browser.new_page()
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(url)
    alert, box = page.get_by_role("alert"), page.locator("#message")
    say(page, LISBON)
    session = f"{url}/v1/sessions/{page.url.partition('#')[2]}"

    box.fill("word " * 3000)
    box.press("Enter")
    expect(alert).to_contain_text("512 positions")
    expect(box).to_have_value("word " * 3000)

    httpx.post(f"{session}/freeze", json={"frozen": True})
    box.fill("Hello!")
    box.press("Enter")
    expect(alert).to_contain_text("frozen")
    expect(page.locator("#freeze")).to_have_attribute("aria-pressed", "true")
    httpx.post(f"{session}/freeze", json={"frozen": False})

    for number in range(19):  # version 1 is no longer kept then, so that version 2 cannot be weighed
        httpx.post(f"{session}/observe", json={"text": f"This is note {number}."})
    page.locator("#timeline .version").last.click()
    expect(alert).to_contain_text("version 1")
    expect(page.locator("#held-title")).to_have_text("What v21 holds")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for by, some in (("write", True), ("none", False), ("write", True)):
        page.locator(f"#shade input[value={by}]").check(force=True)
        expect(page.locator(".token.write").first).to_be_visible(visible=some)
    weighed = [address for address in asked if address.endswith("/strengths")]
    assert len(weighed) == page.locator(TURNS).count()

    httpx.delete(session)
    box.fill("Hello!")
    box.press("Enter")
    expect(alert).to_contain_text("no session")
    expect(page.locator("#title")).to_have_text("New session")
    expect(box).to_have_value("Hello!")
    assert httpx.get(session).status_code == 404
    assert broken == []
    page.close()


def test_what_it_knows_is_shown_with_its_source_and_can_be_forgotten_and_corrected(
    visit: Callable[..., Page], url: str
) -> None:
    page = visit(url)
    say(page, LISBON)
    say(page, "There is a tortoise at home with me.")
    page.get_by_role("button", name="Ask", exact=True).click()
    known = page.locator("#known li")
    city, pet = known.filter(has_text="Lisbon"), known.filter(has_text="tortoise")
    page.set_default_timeout(60_000)
    expect(city.locator("mark").first).to_contain_text("Lisbon", timeout=60_000)
    expect(pet.locator("blockquote")).to_contain_text("There is a tortoise at home with me.")
    expect(page.locator("#known-status")).to_contain_text("Not known: name")
    city.get_by_role("button", name="Correct").first.click()
    page.fill("#ask-input", "I live in Porto.")
    page.click("#ask-yes")
    expect(known.filter(has_text="Porto")).not_to_have_count(0, timeout=60_000)
    expect(known.filter(has_text="Lisbon")).to_have_count(0)
    pet.get_by_role("button", name="Forget this").first.click()
    page.click("#ask-yes")
    expect(pet).to_have_count(0, timeout=60_000)
    expect(page.locator("#known-part")).to_have_attribute("aria-busy", "false", timeout=60_000)
    expect(page.locator("#log")).not_to_contain_text("tortoise")
    session = page.url.partition("#")[2]
    said = httpx.get(f"{url}/v1/sessions/{session}/messages").json()["data"]
    assert [message["content"] for message in said if message["role"] == "user"] == ["I live in Porto."]
