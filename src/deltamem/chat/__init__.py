"""Text in: chats and documents as tokens, and the one place where a model reads them into its memory."""

from deltamem.chat.template import Message, TemplateRefusedError
from deltamem.chat.tokens import ChatTokens, encode_chat, encode_to_write

__all__ = ["ChatTokens", "Message", "TemplateRefusedError", "encode_chat", "encode_to_write"]
