"""MemoryAgentBench's prompts: the authors' for each kind of source, and the one the release uses for all."""

from collections.abc import Sequence
from typing import Any

from deltamem.chat import Message
from deltamem_lab.interface import Budget

SYSTEM = "You are a helpful assistant that can read the context and memorize it for future retrieval."
KINDS = ("ruler", "longmemeval", "eventqa", "icl", "recsys", "infbench", "detective", "factconsolidation")

# The authors put the time of reading behind the first words, save for longmemeval; a fixed one keeps prompts the same
# from run to run. Which kinds have a blank after it is theirs, and so are the backslash and the n, two characters.
_TIME = "2025-01-01 00:00:00"
_AFTER_DIALOGUE = {"ruler": _TIME, "eventqa": _TIME, "longmemeval": ""}
_DIALOGUE = "Dialogue between User and Assistant {time}\\n<User> The following context is {what}: \n{context}\n "
_DOCUMENTS = ("the documents I have read", "I have learned the documents")
_BOOK = ("the book I have read", "I have read the book")
_MEMORISE = {
    "ruler": _DOCUMENTS,
    "longmemeval": ("the conversation between the user and the assistant", "I have memorized the conversation"),
    "eventqa": ("the book excerpt", "I have read the book excerpt"),
    "icl": ("the examples I have learned", "I have learned the examples"),
    "recsys": ("the dialogues between a user and recommender system", "I have memorized the dialogues"),
    "infbench": _BOOK,
    "detective": _BOOK,
    "factconsolidation": ("the facts I have learned", "I have learned the facts"),
}
_QUERY = {
    "ruler": "Answer the question based on the memorized documents. Only give me the answer and do not output any "
    "other words. \n\nQuestion: {question} \n\n Answer:",
    "longmemeval": "The history chats are between you and a user. Based on the relevant chat history, answer the "
    "question as concisely as you can, using a single phrase if possible.\n\n {question} \n\n Answer:",
    "eventqa": "Based on the context you memorized, complete the task below:\n\n{question}\n\n The event that happens "
    "next is:",
    "icl": "Use the provided mapping from the context to numerical label to assign a numerical label to the context. "
    'Only output "label: {{label}}" and nothing else. \n\n{question} \n\n label:',
    "recsys": "Pretend you are a movie recommender system. You need to recommend movies based on the dialogues you "
    "have memorized. Now I will give you a new conversation between a user and you (a recommender system). Based on "
    "the conversation, you reply me with 20 recommendations without extra sentences. \n\nFor Example:\n\n"
    "[Conversation]\n\nThe recommendations are: \n1.movie1\n2.movie2\n...\n\n Here is the conversation: {question} "
    "\n\n The recommendations are: \n",
    "infbench": "You are given a book above and you are tasked to summarize it. \n\n{question} \n\n Now summarize the "
    "book.",
    "detective": "Based on the context you memorized, answer the question below. You are required to answer the "
    "question based on the strict output format.\n\n {question} \n\n",
    "factconsolidation": "Pretend you are a knowledge management system. Each fact in the knowledge pool is provided "
    "with a serial number at the beginning, and the newer fact has larger serial number. \n You need to solve the "
    "conflicts of facts in the knowledge pool by finding the newest fact with larger serial number. You need to "
    "answer a question based on this rule. You should give a very concise answer without saying other words for the "
    "question **only** from the knowledge pool you have memorized rather than the real facts in real world. \n\n"
    "For example:\n\n [Knowledge Pool] \n\n Question: Based on the provided Knowledge Pool, what is the name of the "
    "current president of Russia? \nAnswer: Donald Trump \n\n Now Answer the Question: Based on the provided "
    "Knowledge Pool, {question} \nAnswer:",
}
_RELEASE = (
    "Use only the memory context below to answer the question.\n"
    "Reply with a short entity, phrase, number, or sentence only.\n"
    "If the answer is not supported by the context, reply exactly: I don't know.\n\n"
    "{context}\n\nQuestion: {question}\nAnswer:"
)
_FROM_MEMORY = "Reply with a short entity, phrase, number, or sentence only.\n\nQuestion: {question}\nAnswer:"
_CUT = "\n\n[... context truncated ...]\n\n"
# The release's numbers: characters beside the mark, tokens left free, characters that a token's length is measured on,
# the fewest characters that are cut in tokens, and what a tokenizer without a limit says at least.
_HARDLY = 32
_RESERVE = 32
_SAMPLE = 8192
_CHARACTERS = 32768
_NO_LIMIT = 10**7


def kind_of(source: str) -> str:
    """The kind of a source, by the start of its name.

    Raises:
        ValueError: the benchmark has no such source.
    """
    for kind in KINDS:
        if source.startswith(kind):
            return kind
    raise ValueError(f"{source!r} is not a source of MemoryAgentBench; their names begin with {', '.join(KINDS)}")


def official_messages(source: str, chunks: Sequence[str], question: str) -> list[Message]:
    """The authors' prompt for a long-context model: every chunk as a dialogue that reads it, then the query."""
    kind = kind_of(source)
    what, learned = _MEMORISE[kind]
    time = _AFTER_DIALOGUE.get(kind, f"{_TIME} ")
    read = [
        f"{_DIALOGUE.format(time=time, what=what, context=chunk)}<Assistant> {learned} and I will answer the question "
        "you ask."
        for chunk in chunks
    ]
    asked = _QUERY[kind].format(question=question)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n".join([*read, asked])}]


def released_messages(context: str, question: str) -> list[Message]:
    """The release's prompt for every source."""
    return [{"role": "user", "content": _RELEASE.format(context=context, question=question)}]


def from_memory(question: str) -> list[Message]:
    """The part of the release's prompt that makes sense where no context is shown."""
    return [{"role": "user", "content": _FROM_MEMORY.format(question=question)}]


def clip(text: str, limit: int) -> str:
    """A text of at most ``limit`` characters as the release cuts it: its first third and its last two, and a mark.

    White space around the cut goes. Where there is hardly room for more than the mark the end alone is left.
    """
    if len(text) <= limit:
        return text
    if limit <= len(_CUT) + _HARDLY:
        return text[-limit:]
    head = (limit - len(_CUT)) // 3
    return text[:head].rstrip() + _CUT + text[-(limit - len(_CUT) - head) :].lstrip()


def clip_to_room(text: str, question: str, budget: Budget) -> str:
    """A context that a prompt has room for, as the release cuts it: by tokens, its first third and its last two.

    It is cut by characters first where it is much longer than the room, then to 32 tokens less than the room, and, as
    texts cut apart have other tokens, once more by what is then too much.
    """
    if budget.tokens is None or not text:
        return text
    room = max(1, budget.tokens - budget.length(released_messages("", question)) - _RESERVE)
    text = clip(text, _characters(text, room, budget.tokenizer))
    text = _clip_tokens(text, room, budget.tokenizer)
    over = budget.length(released_messages(text, question)) - budget.tokens
    if over <= 0:
        return text
    tokens = len(_ids(text, budget.tokenizer))
    return _clip_tokens(text, max(1, tokens - over - _RESERVE), budget.tokenizer)


def _characters(text: str, room: int, tokenizer: Any) -> int:
    """How many characters may be worth cutting in tokens, by how long tokens are where the text begins."""
    sample = text[:_SAMPLE]
    per_token = max(1.0, len(sample) / max(1, len(_ids(sample, tokenizer))))
    most = int(room * per_token * 1.25)
    if tokenizer.model_max_length < _NO_LIMIT:
        most = min(most, int(tokenizer.model_max_length * per_token * 0.9))
    return max(_CHARACTERS, most)


def _clip_tokens(text: str, room: int, tokenizer: Any) -> str:
    ids = _ids(text, tokenizer)
    if len(ids) <= room:
        return text
    mark = len(_ids(_CUT, tokenizer))
    if room <= mark + 2:
        return _text(ids[-room:], tokenizer).strip()
    head = max(1, (room - mark) // 3)
    tail = max(1, room - mark - head)
    return _text(ids[:head], tokenizer).rstrip() + _CUT + _text(ids[-tail:], tokenizer).lstrip()


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _text(ids: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))
