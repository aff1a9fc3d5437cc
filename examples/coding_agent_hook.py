#!/usr/bin/env python3
"""A hook for coding agents: a memory for each repository, which outlives the agent's sessions.

Claude Code and Codex run commands at certain points and hand them a JSON object with the working directory and the
prompt. What this one prints becomes part of the agent's context:

    coding_agent_hook.py recall     asks the memory the prompt and prints the answer
    coding_agent_hook.py remember   writes the prompt to the memory, or what the agent said last

In Claude Code's .claude/settings.json, and in the same form in Codex's hooks.json:

    {"hooks": {"UserPromptSubmit": [{"hooks": [
        {"type": "command", "command": "python3 /path/to/coding_agent_hook.py recall"},
        {"type": "command", "command": "python3 /path/to/coding_agent_hook.py remember"}]}]}}

With "Stop" in the place of "UserPromptSubmit", remember writes what the agent said.

It needs Python alone. DELTAMEM_URL and DELTAMEM_API_KEY name the server; if that cannot be reached the hook says so on
standard error, prints nothing and exits with 0, because an agent without memories is better than one that stands still.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

URL = os.environ.get("DELTAMEM_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("DELTAMEM_API_KEY", "none")
NOTHING = ("i don't know", "i do not know", "you have not told me")


def main() -> int:
    """Reads one event and does what the argument says."""
    if len(sys.argv) != 2 or sys.argv[1] not in ("recall", "remember"):
        print(__doc__, file=sys.stderr)
        return 2
    event = json.load(sys.stdin)
    session = session_of(Path(event.get("cwd") or os.getcwd()))
    text = next((event[name] for name in ("prompt", "last_assistant_message", "text") if event.get(name)), "")
    if not text:
        return 0
    try:
        if sys.argv[1] == "remember":
            call(f"/v1/sessions/{session}/observe", {"text": text})
        elif answer := recall(session, text):
            print(f"From this repository's memory: {answer}")
    except OSError as error:  # an HTTP status is one too
        print(f"deltamem: {reason(error)}", file=sys.stderr)
    return 0


def recall(session: str, text: str) -> str:
    """What the memory adds to the answer, without writing the question; empty if it knows nothing of it.

    A model says something to everything ("Thanks, noted."). What it would say without the memory too is no memory.
    """
    messages = [{"role": "user", "content": text}]

    def answer(memory: dict[str, str]) -> str:
        reply = call("/v1/chat/completions", {"messages": messages, "temperature": 0, "memory": memory})
        return str(reply["choices"][0]["message"]["content"]).strip()

    try:
        remembered = answer({"session": session, "mode": "read_only"})
    except urllib.error.HTTPError as error:
        if error.code == 404:  # nothing was remembered yet
            return ""
        raise
    if remembered.lower().startswith(NOTHING) or remembered == answer({"mode": "off"}):
        return ""
    return remembered


def session_of(folder: Path) -> str:
    """A name for the repository, the same in every clone of it and in all its folders."""
    git = ["git", "-C", str(folder)]
    for question in (["config", "--get", "remote.origin.url"], ["rev-parse", "--show-toplevel"]):
        try:
            found = subprocess.run([*git, *question], capture_output=True, text=True, check=False).stdout.strip()
        except OSError:
            found = ""
        if found:
            break
    place = found or str(folder.resolve())
    name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(place).stem)[:60]
    return f"code:{name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def call(path: str, body: dict[str, Any]) -> Any:
    """What the server answers."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", "X-Request-Timeout": "10"}
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=15) as reply:
        return json.load(reply)


def reason(error: OSError) -> str:
    """The server's own words if there are some."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            return str(json.load(error)["error"]["message"])
        except (ValueError, KeyError):
            return str(error)
    return f"{URL}: {error}"


if __name__ == "__main__":
    sys.exit(main())
