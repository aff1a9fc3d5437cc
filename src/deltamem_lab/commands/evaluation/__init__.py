"""The parts of ``deltamem eval``."""
