"""A support bot that remembers its customers from ticket to ticket.

Start a server (``deltamem serve``), then: ``python examples/support_bot.py 4711``
Type or pipe in what the customer says. /known shows how much is remembered, /undo takes the last turn back, /forget
deletes the customer, and the end of the input ends the ticket.

Each customer is a session. The bot writes what the customer says to the memory, but not its own words: a wrong answer
should not become a memory. A ticket keeps its last few messages as text, so that the bot follows the conversation; the
next ticket starts without any.
"""

import argparse
import os
import sys
from typing import Any

import httpx

VISIBLE = 6


class Customer:
    """A customer's memory on the server.

    Args:
        http: a client of the server.
        number: the customer's number in whatever system there is.
    """

    def __init__(self, http: httpx.Client, number: str) -> None:
        self._http = http
        self.session = f"customer:{number}"
        self._ticket: list[dict[str, str]] = []

    def ask(self, text: str) -> str:
        """The bot's answer."""
        messages = [*self._ticket, {"role": "user", "content": text}]
        memory = {"session": self.session, "roles": ["user"]}
        reply = self._call("POST", "/v1/chat/completions", {"messages": messages, "temperature": 0, "memory": memory})
        answer: str = reply["choices"][0]["message"]["content"]
        self._ticket = [*messages, {"role": "assistant", "content": answer}][-VISIBLE:]
        return answer

    def known(self) -> str:
        """How much the memory has read."""
        found = self._call("GET", f"/v1/sessions/{self.session}")
        return f"{found['tokens_written']} tokens in {found['versions']} versions, {found['bytes']} bytes"

    def undo(self) -> None:
        """Takes the last turn back."""
        self._call("POST", f"/v1/sessions/{self.session}/rollback", {"turns": 1})
        self._ticket = self._ticket[:-2]

    def forget(self) -> None:
        """Deletes all that is known of the customer."""
        self._call("DELETE", f"/v1/sessions/{self.session}")
        self._ticket = []

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        reply = self._http.request(method, path, json=body)
        if reply.is_error:
            raise RuntimeError(reply.json()["error"]["message"])
        return reply.json()


def main() -> None:
    """Reads what the customer says, line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("customer", help="the customer's number")
    parser.add_argument("--url", default=os.environ.get("DELTAMEM_URL", "http://127.0.0.1:8000"))
    options = parser.parse_args()
    key = os.environ.get("DELTAMEM_API_KEY", "none")
    with httpx.Client(base_url=options.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        customer = Customer(http, options.customer)
        for line in map(str.strip, sys.stdin):
            try:
                if line == "/known":
                    print(customer.known())
                elif line == "/undo":
                    customer.undo()
                elif line == "/forget":
                    customer.forget()
                elif line:
                    print(customer.ask(line))
            except RuntimeError as error:
                print(f"! {error}")


if __name__ == "__main__":
    main()
