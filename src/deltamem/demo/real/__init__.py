"""The demo on a real chat model: a conversation by script, then a small table, with the controls beside."""
