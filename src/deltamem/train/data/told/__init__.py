"""Told facts: an open world of dialogues from which a memory can learn, with values, wordings and relations held out."""
