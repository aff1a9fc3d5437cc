"""What a real chat model recalls from its memory alone, beside every control.

    python benchmarks/real_model.py --json benchmarks/results/real_model.json

Answers are greedy, to a question alone in the window after the chat template's own opening; ``full`` has the dialogue
in its window, ``bm25`` the three turns it finds. An answer is right when the told value stands in it, word by word,
whatever else it says. Intervals are 95 %, by a bootstrap over dialogues. Files of real text are not in the repository:
``--chats`` is one chat a line as Synthetic-Persona-Chat's, ``--stories`` one story a line as FairytaleQA's, and
``--locomo`` is locomo10.json. Give ``--trained`` the recipes of the adapters, so that no value counts as unseen whose
words were part of a trained one. Each section is written as soon as it is measured, each cell of told facts too; what
the file has of the same adapters and to the same extent is not measured again, as by ``deltamem eval --suite real``.
"""

import argparse
import sys
from pathlib import Path

import torch

from deltamem_lab.real.chat import Chat, choose_adapters
from deltamem_lab.real.sections import FILES, SECTIONS, Extent, choose_sections, measure
from deltamem_lab.real.told import trained_words

METHODS = ("multi", "token", "static")


def main() -> int:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="the backbone: a name or a folder")
    for name in METHODS:
        parser.add_argument(f"--{name}", default="", help=f"the adapter {name}: its name in the package or a folder")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER", help="one more")
    parser.add_argument(
        "--trained",
        action="append",
        default=[],
        metavar="RECIPE[:UPDATES]",
        help="a recipe of the adapters: no held-out value has a word that its training had",
    )
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--dialogues", type=int, default=Extent.dialogues, help="questions a cell, about")
    parser.add_argument("--texts", type=int, default=Extent.texts, help="stories, and persona chats")
    parser.add_argument("--conversations", type=int, default=Extent.conversations, help="of LoCoMo")
    parser.add_argument("--questions", type=int, default=Extent.questions, help="about each of LoCoMo's conversations")
    for name, what in FILES.items():
        parser.add_argument(f"--{name}", type=Path, help=what)
    parser.add_argument("--answers", type=Path, default=Path("runs/real_model"), help="folder for LoCoMo's answers")
    parser.add_argument("--only", default="", help=f"sections, by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    adapters = {name: place for name in METHODS if (place := getattr(arguments, name))}
    adapters |= dict(one.split("=", 1) for one in arguments.adapter)
    if not set(adapters) - {"static"}:
        adapters = {**choose_adapters(arguments.model, ()), **adapters}
    files = {name: path for name in FILES if (path := getattr(arguments, name))}
    try:
        sections = choose_sections(arguments.only, files)
    except ValueError as error:
        parser.error(str(error))
    extent = Extent(arguments.dialogues, arguments.texts, arguments.conversations, arguments.questions)
    chat = Chat(arguments.model, adapters)
    for one in arguments.trained:
        recipe, _, updates = one.partition(":")
        chat.trained |= trained_words(chat.tokenizer, Path(recipe), int(updates) if updates else None)
    measure(chat, sections, files, extent, arguments.json, answers=arguments.answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
