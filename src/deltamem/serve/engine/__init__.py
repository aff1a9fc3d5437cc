"""The engine: one thread that owns the model, and batches whatever waits for it."""
