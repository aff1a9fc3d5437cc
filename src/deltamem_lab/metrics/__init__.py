"""How answers are scored: each benchmark's own rules, and the release's where they differ."""
