"""What bounds recall: what a memory's states could hold, beside what the adapter writes into them.

    python benchmarks/capacity.py --json benchmarks/results/capacity.json

Facts are told in held-out wordings, with values that no training had. ``written``: the states are what the adapter
wrote. ``best``: the adapter stays as it is, and the states themselves are trained (Adam), for each dialogue alone,
until the questions of the training's wordings are answered. Both answer the same questions in a wording that neither
had. ``stranger`` asks the best states of another dialogue. Where ``best`` is high and ``written`` is low, neither the
size of the states nor the reading of them bounds recall, but what is written. ``lower`` and ``upper`` have the best
states in the lower or the upper half of the layers, and what was written in the others; ``changed`` is how far each
layer's states moved, in parts of what was written. ``gates`` are the write gates by layer, of tokens of told values
and of all others. Intervals are 95 %, by a bootstrap over dialogues.
"""

import random
import sys
from typing import Any

import torch

from common import command_line, keep, machine, show_cell
from deltamem.attach import attached
from deltamem.state import MemoryState
from deltamem.step import Step
from deltamem.train.data.told.dialogues import Fact, Question
from deltamem.train.data.told.relations import put
from deltamem.train.data.told.rendering import Renderer
from deltamem.train.episodes import TextBatch, collate
from deltamem.train.fit import told_tokens
from deltamem.train.passes import answers, read
from deltamem_lab.real.chat import Chat
from deltamem_lab.real.told import Told, sampled

WARM_UP = 10


def asked_as_in_training(rng: random.Random, fact: Fact) -> Question:
    """A question about a fact in one of the wordings that training has."""
    wording = rng.choice([*fact.relation.ask[:-1], *fact.relation.also_ask])
    answer = put(fact.relation.answer, value=fact.value, subject=fact.subject, speaker="assistant")
    return Question(put(wording, subject=fact.subject), answer, fact)


def best_states(
    chat: Chat, told: Told, start: MemoryState, updates: int, rate: float
) -> tuple[MemoryState, list[float]]:
    """States that answer the dialogues' questions as well as training finds, and the loss of each update.

    Args:
        chat: the model.
        told: the dialogues.
        start: what the search begins with, one row a dialogue.
        updates: of Adam, each with every fact asked about once.
        rate: of learning, in parts of the start's root mean square.
    """
    rng, renderer = random.Random("wordings"), Renderer(chat.tokenizer, lead=0.3)
    facts = [(row, question.fact) for row, dialogue in enumerate(told.dialogues) for question in dialogue.questions]
    rows = torch.tensor([row for row, _ in facts])
    size = torch.cat([state.flatten() for state in start.states]).square().mean().sqrt().item()
    states = [state.clone().requires_grad_() for state in start.states]
    optimiser = torch.optim.Adam(states, lr=rate * size, betas=(0.9, 0.98))
    losses = []
    for update in range(updates):
        for group in optimiser.param_groups:
            group["lr"] = rate * size * min((update + 1) / WARM_UP, 2 * (1 - update / updates), 1)
        texts = [renderer.query(asked_as_in_training(rng, fact), None) for _, fact in facts]
        batch = TextBatch.pad(texts, chat.pad)
        memories = MemoryState(tuple(states), start.tokens).select(rows)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = read(chat.model, memories, batch)
            found = answers(chat.model, hidden, batch)
        loss = (found.losses() * found.weights).sum() / found.weights.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(round(loss.item(), 4))
    return MemoryState(tuple(state.detach() for state in states), start.tokens), losses


def mixed(first: MemoryState, second: MemoryState, layers: int) -> MemoryState:
    """The states of one memory in so many layers from below, and of another in those above."""
    return MemoryState((*first.states[:layers], *second.states[layers:]), first.tokens)


@torch.no_grad()
def write_gates(chat: Chat, told: Told) -> dict[str, list[float]]:
    """The mean write gate of each layer, of the tokens of told values and of all others."""
    renderer = Renderer(chat.tokenizer)
    batch = collate([renderer.episode(dialogue) for dialogue in told.dialogues], chat.pad)
    passage, attachment = batch.passages[0], attached(chat.model)
    values = torch.zeros_like(passage.mask)
    for token in told_tokens(batch):
        values[token.row, token.column] = True
    step = Step(attachment.new_state(len(told.dialogues)), mask=passage.mask)
    step.inputs = {}
    attachment.base(passage.ids, use_cache=False, memory=step)
    gates = [memory.write_gates(step.inputs[layer]).float() for layer, memory in enumerate(attachment.memories())]
    tokens = {"values": values, "others": passage.mask & ~values}
    return {name: [round(gate[chosen].mean().item(), 4) for gate in gates] for name, chosen in tokens.items()}


def measure(chat: Chat, facts: int, questions: int, updates: int, rate: float) -> dict[str, Any]:
    """Recall from written and from best states, where so many facts were told."""
    told = Told(chat, sampled("values", facts, max(2, questions // facts), trained=chat.trained))
    written = told.write()
    best, losses = best_states(chat, told, written, updates, rate)
    layers = len(written.states) // 2
    answered = {
        "written": told.recalled(written),
        "best": told.recalled(best),
        "stranger": chat.answer(told.prompts, best.select(told.strange)),
        "lower": told.recalled(mixed(best, written, layers)),
        "upper": told.recalled(mixed(written, best, layers)),
    }
    moved = [(b - w).norm() / w.norm() for b, w in zip(best.states, written.states, strict=True)]
    return {
        **told.recall(answered),
        "loss": losses[:: max(1, updates // 10)] + losses[-1:],
        "changed": [round(part.item(), 3) for part in moved],
        "gates": write_gates(chat, told),
    }


def main() -> int:
    """Measures each number of facts."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--adapter", default="multi")
    parser.add_argument("--facts", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--questions", type=int, default=32, help="for each number of facts, about")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--rate", type=float, default=0.1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chat = Chat(options.model, {"memory": options.adapter})
    chat.use("memory")
    for parameter in chat.model.parameters():
        parameter.requires_grad_(False)
    report: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
    report["bytes"] = attached(chat.model).new_state(1).nbytes
    for facts in options.facts:
        report[str(facts)] = cell = measure(chat, facts, options.questions, options.updates, options.rate)
        show_cell(f"{facts} facts", cell)
        keep(report, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
