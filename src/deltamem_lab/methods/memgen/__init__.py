"""MemGen (arXiv 2509.24704): a trained weaver adds latent tokens to what a frozen backbone, the reasoner, reads.

What the publication leaves open is as in the authors' code: eight latents an insertion, one insertion after the prompt
and at most five after delimiters, two sets of queries, one LoRA and one pair of linear maps, which are as PyTorch makes
them when training begins. Only the weaver is trained, by supervised learning. The trigger, a second LoRA with a head
that learns by GRPO where to insert, is not here; latents are inserted wherever they may be.
"""

from deltamem_lab.methods.memgen.method import MemGen

__all__ = ["MemGen"]
