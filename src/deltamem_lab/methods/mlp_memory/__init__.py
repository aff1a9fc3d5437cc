"""MLP Memory (arXiv 2508.01832): an MLP that imitates a nearest-neighbour search in the training text.

A datastore keeps a hidden state of the backbone, and the token that followed, for every token of the text. From a
hidden state the MLP predicts what follows the states nearest to it, and its distribution is mixed into the backbone's.
As in the authors' published code, the state is what a block's feed-forward reads, of the last block unless another is
chosen; a block of the MLP is a norm, a feed-forward as wide as the backbone's and a residual connection; distances are
squared, and no state finds itself. Here the search is exact, and the MLP's head begins as the backbone's.
"""

from deltamem_lab.methods.mlp_memory.method import MixedMemory

__all__ = ["MixedMemory"]
