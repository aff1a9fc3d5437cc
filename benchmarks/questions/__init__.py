"""Questions that the paper leaves open, each with a command, a plot and a paragraph in docs/questions.md."""
