"""The command line. Each command is one file here, named after it, with one function of that name."""
