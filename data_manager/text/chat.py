"""Conversations: messages of a column, and the plain format in which a tokenizer without a chat template reads them.

In the plain format each message is a line with its role, and its content from the next line on. The content of the
assistant's messages are the responses; an end token follows each of them, which no text can spell.

    <user>
    What is the capital of France?
    <assistant>
    Paris.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from data_manager.text.template import Spans

ASSISTANT = "assistant"
ROLES = ("system", "developer", "user", ASSISTANT, "tool")


class Message(NamedTuple):
    """Message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversations:
    """Column of messages, and their format: `plain`, `template`, or None for the tokenizer's template where it has one."""

    column: str
    chat: Literal["plain", "template"] | None = None


class MessagesError(ValueError):
    """Error of a value that is no conversation to learn from; the message says what is wrong with it."""


def read_messages(value: Any, column: str) -> tuple[Message, ...]:
    """Read the messages of a row: a list of {role, content}, or as `datasets` stores it {role: [...], content: [...]}.

    In CSV files the list is JSON. Raises MessagesError.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise MessagesError(f"column {column!r} holds text, not a list of messages in JSON") from None
    if isinstance(value, Mapping) and isinstance(value.get("role"), list) and isinstance(value.get("content"), list):
        value = [{"role": role, "content": text} for role, text in zip(value["role"], value["content"], strict=False)]
    if not isinstance(value, list) or not value:
        what = "no messages" if value is None or value == [] else f"{type(value).__name__}, not a list of messages"
        raise MessagesError(f"column {column!r} holds {what}; write [{{role: user, content: ...}}, ...]")
    found = tuple(_message(one, number) for number, one in enumerate(value, 1))
    if ASSISTANT not in {message.role for message in found}:
        raise MessagesError("there is no message of the role assistant, so there is no response to learn")
    if found[-1].role != ASSISTANT:
        raise MessagesError(
            f"message {len(found)}, the last, is of role {found[-1].role}, and its answer is missing; a conversation ends "
            "with a message of the role assistant"
        )
    return found


def _message(value: Any, number: int) -> Message:
    if not isinstance(value, Mapping) or "role" not in value or "content" not in value:
        keys = f"has the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else f"is {value!r:.40}"
        raise MessagesError(f"message {number} {keys}; a message has a role and a content")
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise MessagesError(f"message {number} has the role {role!r}; the roles are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise MessagesError(f"message {number} ({role}) has a content of type {type(content).__name__}, not text")
    return Message(role, content)


def plain_chat(messages: Sequence[tuple[str, str]]) -> tuple[str, Spans]:
    """Write a conversation in the plain format; return its text and the spans of the assistant's contents.

    White space around contents is left out.
    """
    text, spans = "", list[tuple[int, int]]()
    for role, content in messages:
        text += f"\n<{role}>\n" if spans and spans[-1][1] == len(text) else f"<{role}>\n"
        begin = len(text)
        text += content.strip()
        if role == ASSISTANT:
            spans.append((begin, len(text)))
        else:
            text += "\n"
    return text, tuple(spans)
