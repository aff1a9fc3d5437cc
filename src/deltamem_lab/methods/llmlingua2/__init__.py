"""LLMLingua-2 (arXiv 2403.12968): a small classifier keeps the telling words of the history, whatever will be asked.

The package ``llmlingua`` does the compressing, with the authors' classifier or, as a method of another name, with one
that is trained here. Theirs learned which words of meetings GPT-4 keeps. One that is trained here learns which words of
an episode's history its questions and answers take up, and starts from random weights.
"""

from deltamem_lab.methods.llmlingua2.method import Compression, LLMLingua2

__all__ = ["Compression", "LLMLingua2"]
