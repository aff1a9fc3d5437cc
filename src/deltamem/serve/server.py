"""What all routes share, and what a running server does for its store."""

import asyncio
import logging
import re
import threading
import time
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import Any

from starlette.requests import Request
from transformers import PreTrainedModel

from deltamem.chat.input import TextInput
from deltamem.encoder import Encoder
from deltamem.formats.state import StateCodec
from deltamem.recall import Interview
from deltamem.serve.access import Access, Caller, RateLimits
from deltamem.serve.acts import Acts
from deltamem.serve.bridge import Inbox
from deltamem.serve.committer import Committer
from deltamem.serve.engine.constraint import Forms
from deltamem.serve.engine.engine import Engine
from deltamem.serve.engine.interface import AnyEngine, MakeEngine, end_tokens
from deltamem.serve.engine.sampling import Sampling
from deltamem.serve.errors import ApiError, invalid
from deltamem.serve.locks import Locks
from deltamem.serve.metrics import Metrics
from deltamem.serve.prompts import Prompts
from deltamem.serve.settings import EngineLimits, Settings
from deltamem.serve.states import StateSigner
from deltamem.serve.webhooks import Courier
from deltamem.store import Action, ApiKeys, EncryptionError, Rates, Scope, SessionStore

_log = logging.getLogger(__name__)
_SECONDS = re.compile(r"[0-9]{1,8}(\.[0-9]{1,6})?")


class Server:
    """A model, its engine and a store, and who may use them.

    Args:
        model: a model with an active adapter; nothing else may change it while the server runs.
        tokenizer: its tokenizer.
        store: an open store; it is closed with the server.
        settings: how the server is set up.
        limits: how much its engine takes on.
        engine: what makes its engine.
        encoder: makes embeddings, and finds memories by what they mean.

    Attributes:
        problem: why the server should not be used, as far as it found out while it ran.

    Raises:
        EncryptionError: the store holds rows that it was opened without the keys for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        store: SessionStore,
        settings: Settings,
        limits: EngineLimits | None = None,
        engine: MakeEngine = Engine,
        encoder: Encoder | None = None,
    ) -> None:
        store.check_keys()
        if store.has_unreadable_plain_rows():
            _log.warning(
                "rows from before the store had encryption keys lie in plain text, and requests for their sessions are "
                "answered with 503: encrypt them with deltamem store rekey"
            )
        self.settings = settings
        self.store = store
        self.encoder = encoder
        self.problem: str | None = None
        self.metrics = Metrics()
        self.states = StateCodec(model, rows=1)
        self.inbox = Inbox()
        self.engine: AnyEngine = engine(
            model, tokenizer, limits, watch=self.metrics.engine_turn, delivered=self.inbox.hand_over
        )
        self.commits = Committer(store)
        self.courier = Courier(store, self.metrics)
        self.acts = Acts(self.courier, audit=settings.audit)
        self.prompts = Prompts(TextInput(model, tokenizer), self.engine.context)
        self.sampling = own_sampling(model, settings.max_tokens)
        self.signer = StateSigner(settings.secret, self.states.fingerprint)
        self.access = Access(ApiKeys(store), required=settings.require_keys)
        self.rates = RateLimits(Rates(store))
        self.turns = Locks()
        self.metrics.busy_sessions.set_function(lambda: len(self.turns))
        self.looking_back = Locks(most=8)  # of each tenant, waiting ones included
        self.model_again = Locks()  # what calls the model beside the engine does so alone
        self.started = int(time.time())
        self._forms: Forms | None = None
        self._making_forms = threading.Lock()

    async def admit(self, request: Request, needs: Scope, action: Action | None, user: str | None = None) -> Caller:
        """Who a request comes from and for which user, counted against the limits.

        Raises:
            ApiError: 401 without a valid key, 403 if it may not do what the request needs, 413 or 429 over a limit,
                503 where nothing should be written.
        """
        if self.problem is not None:
            raise ApiError(503, self.problem, "store_unavailable", headers={"Retry-After": "60"})
        caller = await self.access.caller(request.headers, user)
        request.scope["deltamem_caller"] = caller
        size, most = len(await request.body()), caller.limits.request_bytes
        if most is not None and size > most:
            raise ApiError(413, f"The body has {size} bytes; this API key may send {most}.", "request_too_large")
        await self.rates.admit(caller)
        if action is not None:
            caller.touch(action, request.path_params.get("session"))
        caller.need(needs)
        return caller

    def deadline(self, request: Request) -> float:
        """When a request must be done, on the monotonic clock: after the server's time, or the client's if shorter.

        Raises:
            ApiError: the header is not a number of seconds.
        """
        seconds = self.settings.timeout
        asked = request.headers.get("x-request-timeout")
        if asked is not None:
            if not _SECONDS.fullmatch(asked) or float(asked) == 0:
                raise invalid("X-Request-Timeout is a number of seconds above 0, such as 20.")
            seconds = min(seconds, float(asked))
        return time.monotonic() + seconds

    def needs_encoder(self) -> Encoder:
        """The sentence encoder.

        Raises:
            ApiError: 404, there is none.
        """
        if self.encoder is None:
            raise ApiError(
                404,
                f"{self.settings.model_name} is a chat model, and this server has no model for embeddings: start it "
                "with --embeddings minilm.",
                "not_found",
            )
        return self.encoder

    @cached_property
    def interview(self) -> Interview:
        """What asks memories beside the engine; made when it is first needed, by whoever holds the model."""
        return Interview(self.engine.model, self.engine.tokenizer)

    def forms(self) -> Forms:
        """The forms that answers can be given; made when they are first needed, in whatever thread.

        Raises:
            ImportError: llguidance is not installed; the message names the extra.
        """
        with self._making_forms:
            if self._forms is None:
                engine = self.engine
                self._forms = Forms(engine.tokenizer, sorted(end_tokens(engine.model, engine.tokenizer)))
            return self._forms

    def exclusively(self, tenant: str, session: str, deadline: float) -> AbstractAsyncContextManager[None]:
        """One turn at a time: within the block no other turn of the session runs in this process.

        Raises:
            DeadlineError: the turns before it took too long.
        """
        return self.turns.hold((tenant, session), deadline)

    def close(self, timeout: float = 30.0) -> None:
        """Finishes what runs and closes the store."""
        self.engine.close(timeout)
        self.store.close()


def own_sampling(model: PreTrainedModel, max_tokens: int) -> Sampling:
    """How a model wants to be sampled, by its ``generation_config``: what requests leave out is taken from it.

    As in vLLM, and as in ``generate``, but that ``do_sample`` does not count: temperature 0 is how a request says it.
    """
    config = getattr(model, "generation_config", None)
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    own = {name: value for name in names if (value := getattr(config, name, None)) is not None}
    try:
        return Sampling(max_tokens=max_tokens, **own)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The model's generation_config cannot be served: {error}") from None


async def look_after(server: Server) -> None:
    """Purges and counts, again and again, until it is cancelled.

    A store that is out of reach is tried again the next time; meanwhile nobody knows how many sessions there are.
    """
    while True:
        held = float("nan")
        try:
            await asyncio.to_thread(server.store.check_keys)
            server.problem = None
            purged = await asyncio.to_thread(server.store.purge_expired)
            held = await asyncio.to_thread(server.store.count)
        except EncryptionError as error:
            server.problem = error.public
            _log.error("the store was not looked after: %s", error)
        except Exception as error:
            _log.warning("the store was not looked after", exc_info=error)
        else:
            if purged:
                _log.info("deleted %d expired sessions", purged)
        server.metrics.sessions.set(held)
        await asyncio.sleep(server.settings.upkeep_every)
