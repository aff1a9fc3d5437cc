"""Where a text has its words, in scripts with and without spaces."""

import re
import unicodedata

# Chinese and Japanese characters, and Hangul: as part of a character class.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
# What stands between spaces, without punctuation around it; and each character of a script that marks no words.
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}](?:[^\s{CJK}]*[^\W_{CJK}])?")


def comparable(text: str) -> str:
    """A text in which compatible characters are one, and case does not count."""
    return unicodedata.normalize("NFKC", text).casefold()


def phrase(text: str) -> str:
    """A text as it is looked for in others: :func:`comparable`, on one line, without what ends a sentence."""
    return " ".join(comparable(text).split()).strip(" .!?。")
