"""The command on PostgreSQL, from the first key to another process that remembers."""

from pathlib import Path
from typing import Any

import httpx
from serving import SECRET, commanded, make_server, running
from typer.testing import CliRunner

from deltamem.cli.main import build_app


def test_what_one_server_was_told_the_next_one_knows(cluster: Any, tmp_path: Path) -> None:
    store = cluster.empty_database()
    made = CliRunner().invoke(build_app(), ["keys", "create", "acme", "--store", store])
    assert made.exit_code == 0, made.output
    headers = {"Authorization": f"Bearer {made.stdout.strip()}", "X-Memory-Session": "ravi"}

    def ask(url: str, text: str) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    with commanded(tmp_path, "--store", store) as url:
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert ask(url, "I live in Lisbon.")["memory"]["version"] == 2
        assert ask(url, "I have a dog named Rex.")["memory"]["version"] == 3
    assert not (tmp_path / "sessions.db").exists()
    with running(make_server(store, secret=SECRET, require_keys=True)) as url:
        answer = ask(url, "Where do I live?")
        assert "Lisbon" in answer["choices"][0]["message"]["content"]
        assert answer["memory"]["version"] == 4
