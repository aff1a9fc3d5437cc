"""The Python of README and of the pages of docs/, as a reader would run it."""

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    if "```python\n" in page.read_text("utf-8")
)


def snippets(page: str, *, of_clients: bool) -> list[str]:
    """The Python of a page: what talks to a server, or all else."""
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
    return [code for code in found if ("client" in code) == of_clients]


def run(page: str, codes: list[str], instead: Mapping[str, str], names: dict[str, object]) -> None:
    """Runs snippets one after the other, with what this machine has in the place of what it has not."""
    for number, code in enumerate(codes):
        for there, here in instead.items():
            code = code.replace(there, here)
        exec(compile(code, f"{page}, snippet {number + 1}", "exec"), names)
