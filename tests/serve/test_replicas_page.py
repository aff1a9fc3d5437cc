"""The page on replicas, followed from after its installation to its end."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[str]:
    open_ones = [socket.socket() for _ in range(count)]
    try:
        for one in open_ones:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in open_ones]
    finally:
        for one in open_ones:
            one.close()


def test_two_users_keep_their_memories_when_a_replica_is_killed(tmp_path: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "replicas.md").read_text("utf-8"), re.M | re.S)
    assert "pip install" in blocks[0]
    script = "\n".join(blocks[1:]).replace("$(mktemp -d) ", f"{tmp_path} ")
    for there, here in zip(("8000", "8001", "8002"), free_ports(3), strict=True):
        script = script.replace(there, here)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-c", f"set -euo pipefail\n{script}"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes) as shell:
        try:
            said, errors = shell.communicate(timeout=800)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, errors
    assert [line for line in said.splitlines() if line in ("Lisbon.", "Oslo.")] == ["Lisbon.", "Oslo."] * 2
