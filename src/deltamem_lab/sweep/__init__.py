"""Many short trainings that differ in one thing, and what comes of them: ``deltamem sweep`` and ``--auto-size``."""
