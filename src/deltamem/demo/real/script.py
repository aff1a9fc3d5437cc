"""What is said to the real model. It was written before it was tried, and all of it is shown."""

TOLD = (
    "Hello! My name is Ravi.",
    "I moved to Lisbon last spring.",
    "I work as a carpenter.",
    "My sister is called Ana.",
    "The bus was late again.",
    "I have a parrot.",
    "I chose walnut as a password.",
    "Thank you for your help.",
)
"""The user's messages, in their order; the model answers each by itself."""

ASKED = (
    ("Where do I live?", "Lisbon"),
    ("What do I do for a living?", "carpenter"),
    ("What is my sister's name?", "Ana"),
    ("What pet do I have?", "parrot"),
    ("What is my password?", "walnut"),
    ("What is my name?", "Ravi"),
)
"""Questions, and the word that a right answer has in it."""

LONGEST_REPLY, LONGEST_ANSWER = 32, 16
"""In tokens."""
