"""The benchmarks: what is read, what is asked, how prompts look and how answers are scored."""
