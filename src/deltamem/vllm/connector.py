"""The connector: it gives each request a slot, fills it before its first token, and keeps what is asked for at its end.

vLLM's connectors bring keys and values from elsewhere; this one brings a memory instead, and no keys and values. Its
scheduler side hands out slots. Its worker side performs what that side decided, first what is to be kept and then what
begins, before the step's forward pass.
"""
# vLLM is not there where the product's own checks run, and its classes are then of any type
# mypy: allow-subclassing-any, disable-error-code="no-any-return"

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

from deltamem.formats.state import StateInfo, pack_state
from deltamem.vllm.check import adapter_of, check_pages, check_setup, check_version
from deltamem.vllm.request import MemoryRequest, unstacked
from deltamem.vllm.rings import MemoryLostError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Begin:
    """A request that begins, or begins again; or fails, if there is a problem with it."""

    slot: int
    page: int
    prompt: int
    params: dict[str, Any] | None
    problem: str | None = None


@dataclass
class _Plan(KVConnectorMetadata):
    """What the worker does before a step: keep memories ``(ticket, tokens)``, drop tickets, begin requests."""

    keep: list[tuple[str, int]] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    begin: list[_Begin] = field(default_factory=list)


class _Slots:
    """The scheduler's side: which request has which slot."""

    def __init__(self, requests: int) -> None:
        self._free = list(range(2 * requests, 0, -1))
        self._held: dict[str, int] = {}
        self._tickets: dict[str, str] = {}
        self._plan = _Plan()

    def has_room(self, request_id: str) -> bool:
        return bool(self._free) or request_id in self._held

    def begin(self, request: Any, page: int) -> None:
        slot = self._held.get(request.request_id)
        if slot is None:
            slot = self._held[request.request_id] = self._free.pop()
        ticket, problem = _ticket_of(request), None
        if ticket is not None and self._tickets.setdefault(ticket, request.request_id) != request.request_id:
            problem = f"Another request has the ticket {ticket!r}; a ticket is for one answer."
        begin = _Begin(slot, page, request.num_prompt_tokens, request.kv_transfer_params, problem)
        self._plan.begin.append(begin)

    def finish(self, request: Any) -> None:
        slot = self._held.pop(request.request_id, None)
        if slot is None:  # it never began
            return
        self._free.append(slot)
        ticket = _ticket_of(request)
        if ticket is None or self._tickets.get(ticket) != request.request_id:
            return
        del self._tickets[ticket]
        if request.status.name == "FINISHED_ABORTED":
            self._plan.drop.append(ticket)
        else:
            self._plan.keep.append((ticket, request.num_tokens - 1))  # the last token was not fed

    def take_plan(self) -> _Plan:
        plan, self._plan = self._plan, _Plan()
        return plan


class MemoryConnector(KVConnectorBase_V1, SupportsHMA):
    """See the module. vLLM makes one in the scheduler and one in each worker."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        check_version()
        check_setup(vllm_config)
        adapter_of(vllm_config)
        check_pages(kv_cache_config)
        super().__init__(vllm_config, role, kv_cache_config)
        if role == KVConnectorRole.SCHEDULER:
            self._slots = _Slots(vllm_config.scheduler_config.max_num_seqs)
        else:
            self.memories = _memories(vllm_config)
            self.memories.rings.set_pages(kv_cache_config.num_blocks)

    # What the scheduler calls.

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """No tokens come from elsewhere; without a slot the request waits."""
        return (0 if self._slots.has_room(request.request_id) else None), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """A request begins, or begins again after a preemption."""
        self._slots.begin(request, blocks.get_block_ids()[0][0])

    def build_connector_meta(self, scheduler_output: Any) -> _Plan:
        """What the workers do before the step."""
        return self._slots.take_plan()

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """A request has ended; its pages may go."""
        self._slots.finish(request)
        return False, None

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The same, by the name under which newer versions call it."""
        self._slots.finish(request)
        return False, None

    # What the worker calls.

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """Keeps and begins what the scheduler decided, before the step's forward pass."""
        super().bind_connector_metadata(connector_metadata)
        assert isinstance(connector_metadata, _Plan)
        rings = self.memories.rings
        for kept, tokens in connector_metadata.keep:
            rings.keep(kept, tokens)
        for dropped in connector_metadata.drop:
            rings.drop(dropped)
        for begin in connector_metadata.begin:
            ticket = None
            try:
                if begin.problem is not None:
                    raise ValueError(begin.problem)
                wanted = MemoryRequest.of(begin.params)
                ticket = wanted.ticket
                state, written = wanted.read_state(self.memories.fingerprint, rings.shape)
                flags = wanted.flags(begin.prompt)
            except ValueError as error:
                _log.warning("a request's memory is refused: %s", error)
                rings.refuse(begin.slot, begin.page, str(error), ticket)
            else:
                rings.begin(begin.slot, begin.page, state, flags, ticket, written)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """The pages of requests whose memory cannot be trusted: vLLM fails these requests, and no others."""
        rings = self.memories.rings
        lost, rings.lost = rings.lost, set()
        return lost

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """There are no keys and values to load."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """There are no keys and values to load."""

    def save_kv_layer(self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """There are no keys and values to save."""

    def wait_for_save(self) -> None:
        """There are no keys and values to save."""


class MemoryWorker:
    """What the plugin adds to vLLM's workers, by `--worker-extension-cls`: for `collective_rpc`."""

    vllm_config: Any
    """Of the worker."""

    def deltamem_take(self, ticket: str, tokens: int) -> Tensor:
        """The memory of a request that has finished, as the rings hold it; see :meth:`Rings.take`."""
        return _memories(self.vllm_config).rings.take(ticket, tokens).value

    def deltamem_take_file(self, ticket: str, tokens: int) -> bytes | str:
        """The same as the bytes of a saved memory; or, as text, why it cannot be had."""
        memories = _memories(self.vllm_config)
        try:
            taken = memories.rings.take(ticket, tokens)
        except MemoryLostError as error:
            return str(error)
        state = unstacked(taken.value, torch.tensor([taken.written]))
        return pack_state(state, StateInfo(memories.fingerprint, None, (taken.written,)))


def _ticket_of(request: Any) -> str | None:
    """None also where a request says nonsense of its memory, which the worker refuses."""
    try:
        return MemoryRequest.of(request.kv_transfer_params).ticket
    except ValueError:
        return None


def _memories(vllm_config: Any) -> Any:
    """The :class:`deltamem.vllm.models.Memories` of this process."""
    from deltamem.vllm.models import KEY

    return vllm_config.compilation_config.static_forward_context[KEY]
