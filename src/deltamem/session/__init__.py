"""Conversations that last: a frozen model, a memory, and the few messages that are still text."""

from deltamem.session.retrieval import Retriever
from deltamem.session.session import Session
from deltamem.session.turns import Forgotten, KeptTurn, SessionBusyError, TurnReport

__all__ = ["Forgotten", "KeptTurn", "Retriever", "Session", "SessionBusyError", "TurnReport"]
