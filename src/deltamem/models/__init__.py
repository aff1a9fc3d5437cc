"""Models by name: what they are, how they are fetched, and loading any model with its adapter and tokenizer."""
