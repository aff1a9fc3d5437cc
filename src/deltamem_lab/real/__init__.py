"""A real chat model with trained adapters: what it recalls from its memory alone, beside every control."""
