"""lm-evaluation-harness: its tasks with a model that has a memory, and what it answered as records."""
