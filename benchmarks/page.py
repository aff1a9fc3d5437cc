"""Takes the picture of the server's page that README and docs/server.md show, with Chromium.

    python benchmarks/page.py

It tells the embedded backbone all that the page suggests, drops the context, asks, and compares; then it shades the
earlier text by what the answer read of it.
"""

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from deltamem.demo.adapters import load_demo_adapter
from deltamem.demo.backbone import load_backbone
from deltamem.demo.world import SUGGESTIONS
from deltamem.serve.engine.interface import warm_up
from deltamem.serve.server import Server
from deltamem.serve.settings import Settings
from deltamem.store import SessionStore
from serve import Serving

TO = Path(__file__).parents[1] / "docs/images/page.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=TO, metavar="PATH", help="where the picture goes")
    parser.add_argument("--size", type=int, nargs=2, default=(1440, 1000), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    options = parser.parse_args()

    width, height = options.size
    with Serving(_server()) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=options.scheme)
        page.set_default_timeout(60_000)
        page.goto(url)
        _talk(page)
        page.screenshot(path=options.to)
        browser.close()


def _server() -> Server:
    model, tokenizer = load_backbone()
    load_demo_adapter(model, "multi")
    settings = Settings(secret=os.urandom(32), model_name="deltamem-demo", suggestions=tuple(SUGGESTIONS))
    server = Server(model, tokenizer, SessionStore.open("sqlite://", keep_messages=True), settings)
    warm_up(server.engine)
    return server


def _talk(page: Page) -> None:
    for told, _ in SUGGESTIONS:
        _say(page, told)
    page.click("#rename")
    page.fill("#ask-input", "Ravi and the tortoise")
    page.click("#ask-yes")
    expect(page.locator("#title")).to_have_text("Ravi and the tortoise")
    page.click("#drop")
    _say(page, "On what day was I born?")
    page.fill("#message", "Which city do I live in?")
    page.click("#compare")
    _wait(page)
    page.locator("#shade input[value=read]").check(force=True)
    page.mouse.move(0, 0)
    expect(page.locator(".token.read").first).to_be_attached(timeout=60_000)


def _say(page: Page, text: str) -> None:
    turns = page.locator("#log .meta")
    before = turns.count()
    page.fill("#message", text)
    page.press("#message", "Enter")
    expect(turns).to_have_count(before + 1, timeout=60_000)
    _wait(page)


def _wait(page: Page) -> None:
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false", timeout=60_000)


if __name__ == "__main__":
    main()
