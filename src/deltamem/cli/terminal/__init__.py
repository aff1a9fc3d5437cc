"""The terminal chat: reading lines, running commands, showing the memory."""
