"""``python -m deltamem`` is the ``deltamem`` command."""

from deltamem.cli.main import main

if __name__ == "__main__":
    main()
