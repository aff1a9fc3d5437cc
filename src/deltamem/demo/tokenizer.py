"""The demo's tokenizer: a byte-level BPE trained on the world's own sentences, with a ChatML template."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deltamem.demo.lexicon import lexicon, render, sentence
from deltamem.demo.world import UNKNOWN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
VOCABULARY = 3072
_VALUE_REPEATS = 8

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Train the tokenizer; the same every time.

    A line begins with an implied space (as in SentencePiece), so that a value is the same token at the start of an
    answer as inside the sentence that told it; decoding drops that space again.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            decoders.Replace("\n ", "\n"),
            decoders.Replace(Regex(r"^ "), ""),
            decoders.Replace(START + " ", START),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken("\n", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _corpus() -> Iterator[str]:
    """Sentences with every value and phrasing; values often, to become whole tokens, names once, to stay in parts."""
    words = lexicon()
    yield UNKNOWN
    for attribute in words.attributes.values():
        for value in attribute.values:
            yield from [value] * _VALUE_REPEATS
            for template in (*attribute.tell, *attribute.change, *attribute.ask):
                yield sentence(render(template, value=value))
                yield render(template, subject="my", value=value)
    for said, reply in words.small_talk:
        for index in range(10):
            slots = {slot: options[index % len(options)] for slot, options in words.slots.items()}
            yield f"{said.format(**slots)}\n{reply.format(**slots)}"
    for line in (*words.acks, *words.correction_acks, *words.corrections):
        yield from [line.format(t="")] * 50
    yield from [f"user assistant system my {relation}" for relation in words.relations] * 50
    yield from words.names["train"]
