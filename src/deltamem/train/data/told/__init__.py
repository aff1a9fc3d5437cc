"""Told facts: an open world of dialogues for a memory to learn from; values, wordings and relations are held out."""
