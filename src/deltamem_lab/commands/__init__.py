"""The commands that the laboratory adds to ``deltamem``. Each is one file here, named after it, light to import."""
