"""MemoryAgentBench's prompts: the authors' for each kind of source, and the one the release uses for all."""

from collections.abc import Sequence

from deltamem.chat import Message

SYSTEM = "You are a helpful assistant that can read the context and memorize it for future retrieval."
KINDS = ("ruler", "longmemeval", "eventqa", "icl", "recsys", "infbench", "detective", "factconsolidation")

# The authors put the time of reading here; a fixed one keeps prompts the same from run to run.
_TIME = "2025-01-01 00:00:00"
# The backslash and the n are two characters in the authors' text too.
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


def kind_of(source: str) -> str:
    """The kind of a source, by the start of its name.

    Raises:
        ValueError: the benchmark has no such source.
    """
    for kind in KINDS:
        if source.startswith(kind):
            return kind
    raise ValueError(f"{source!r} is no source of MemoryAgentBench; their names begin with {', '.join(KINDS)}")


def official_messages(source: str, chunks: Sequence[str], question: str) -> list[Message]:
    """The authors' prompt for a long-context model: every chunk as a dialogue that reads it, then the query."""
    kind = kind_of(source)
    what, learned = _MEMORISE[kind]
    read = [
        f"{_DIALOGUE.format(time=_TIME, what=what, context=chunk)}<Assistant> {learned} and I will answer the question "
        "you ask."
        for chunk in chunks
    ]
    asked = _QUERY[kind].format(question=question)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n".join([*read, asked])}]


def released_messages(context: str, question: str) -> list[Message]:
    """The release's prompt for every source; without a context, the part of it that makes sense from memory alone."""
    template = _RELEASE if context else _FROM_MEMORY
    return [{"role": "user", "content": template.format(context=context, question=question)}]


def clip(text: str, limit: int) -> str:
    """A text of at most ``limit`` characters as the release cuts it: its first third and its last two, and a mark."""
    if len(text) <= limit:
        return text
    room = max(0, limit - len(_CUT))
    head = room // 3
    return text[:head] + _CUT + text[len(text) - (room - head) :]
