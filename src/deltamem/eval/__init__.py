"""Evaluation: benchmarks, methods and controls behind one interface, one record a question."""
