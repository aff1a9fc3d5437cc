"""The examples as their users run them, against a running server with keys, and what is beside them in deploy/."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import make_server, running

from deltamem.store import ApiKeys
from snippets import PAGES, snippets
from snippets import run as run_snippets

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    server = make_server(require_keys=True)
    key = ApiKeys(server.store).create("acme").secret
    with running(server) as url:

        def run(name: str, *arguments: str, said: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, str(ROOT / "examples" / name), *arguments]
            settings = os.environ | {"DELTAMEM_URL": url, "DELTAMEM_API_KEY": key} | environment
            return subprocess.run(command, input=said, env=settings, capture_output=True, text=True, timeout=800)

        yield run


def test_the_openai_client_remembers(run: Run) -> None:
    done = run("openai_client.py")
    assert done.returncode == 0, done.stderr
    assert "> Where do I live?\nLisbon." in done.stdout
    assert "Biscuit." in done.stdout


def test_the_support_bot_knows_its_customers_and_forgets_them(run: Run) -> None:
    first = run("support_bot.py", "4711", said="I live in Lisbon.\n/known\n")
    assert "versions" in first.stdout, first.stderr
    assert run("support_bot.py", "4711", said="Where do I live?\n").stdout == "Lisbon.\n"
    assert "Lisbon" not in run("support_bot.py", "4712", said="Where do I live?\n").stdout
    gone = run("support_bot.py", "4711", said="I live in Rome.\n/undo\nWhere do I live?\n/forget\n/known\n")
    assert gone.stdout.splitlines()[-2:] == [
        "Lisbon.",
        "! There is no session 'customer:4711'. Check its name, or create it.",
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, of_clients=True)])
def test_the_clients_of_a_page_run_from_top_to_bottom(page: str) -> None:
    with running(make_server()) as url:
        run_snippets(page, snippets(page, of_clients=True), {"http://127.0.0.1:8000": url}, {})


def test_the_hook_remembers_for_a_repository_and_never_stands_in_the_way(run: Run, tmp_path: Path) -> None:
    def event(text: str, folder: Path = ROOT) -> str:
        return json.dumps({"cwd": str(folder), "prompt": text})

    asked = event("What is my secret word?")
    assert run("coding_agent_hook.py", "recall", said=asked).stdout == ""
    told = run("coding_agent_hook.py", "remember", said=event("My secret word is lantern.", ROOT / "examples"))
    assert (told.returncode, told.stderr) == (0, "")
    assert run("coding_agent_hook.py", "recall", said=asked).stdout == "From this repository's memory: lantern.\n"
    # What an agent says last comes under another name, with its own event.
    said = json.dumps({"cwd": str(ROOT), "last_assistant_message": "My cat is called Biscuit."})
    assert run("coding_agent_hook.py", "remember", said=said).returncode == 0
    known = run("coding_agent_hook.py", "recall", said=event("What is my pet called?")).stdout
    assert known == "From this repository's memory: Biscuit.\n"
    # What the model says to everything is no memory of the repository.
    assert run("coding_agent_hook.py", "recall", said=event("Hello!")).stdout == ""
    elsewhere = run("coding_agent_hook.py", "recall", said=event("What is my secret word?", tmp_path))
    assert elsewhere.stdout == ""
    away = run("coding_agent_hook.py", "recall", said=asked, DELTAMEM_URL="http://127.0.0.1:1")
    assert (away.returncode, away.stdout) == (0, "")
    assert "deltamem:" in away.stderr
