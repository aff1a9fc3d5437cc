"""What can be told to the embedded backbone and then asked, for people who try it."""

SUGGESTIONS = (
    ("I settled in Lisbon some years ago.", "Which city do I live in?"),
    ("There is a tortoise at home with me.", "What pet do I have?"),
    ("My friend Ravi practises the cello daily.", "What is Ravi's instrument?"),
    ("My birthday falls on July 20.", "On what day was I born?"),
    ("Actually, I live in Porto now.", "Which city do I live in?"),
)
"""What to tell, and the question that asks for it."""
