"""Chat template of a Hugging Face tokenizer: the text of a conversation, and where the assistant's responses are in it."""

import re
from collections.abc import Sequence
from copy import copy
from hashlib import sha256
from typing import Any

from data_manager.text.chat import ASSISTANT
from data_manager.text.template import Spans
from data_manager.tokenizers.base import Tokenizer
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def hugging_face_of(tokenizer: Tokenizer) -> HuggingFaceTokenizer | None:
    """Return the tokenizer itself, loaded, if it is one of Hugging Face; None for others, which have no chat template."""
    found = getattr(tokenizer, "loaded", tokenizer)
    return found if isinstance(found, HuggingFaceTokenizer) else None


def with_special_tokens(tokenizer: HuggingFaceTokenizer) -> HuggingFaceTokenizer:
    """Return the tokenizer as chat templates need it: their special tokens are read as such."""
    found = copy(tokenizer)
    found.parse_special_tokens = True
    return found


def chat_identity(tokenizer: Tokenizer) -> str:
    """Return a hash of the chat template; empty without one."""
    own = hugging_face_of(tokenizer)
    template = None if own is None else getattr(own.inner, "chat_template", None)
    return "" if template is None else sha256(str(template).encode()).hexdigest()


def render_chat(tokenizer: HuggingFaceTokenizer, messages: Sequence[tuple[str, str]]) -> tuple[str, Spans]:
    """Return the text of a conversation up to its last response, and the spans of responses in it.

    The responses are what the template marks with `{% generation %}`. Without marks they are the contents of the
    assistant's messages, each with the special token after it, which ends it. Raises ValueError for a conversation that the
    template does not take.
    """
    inner, template = tokenizer.inner, _template(tokenizer)
    _check_contents(inner, messages)
    text, spans = _render(inner, template, messages)
    if not _MARKS.search(template):
        spans = _find_contents(inner, template, messages, text)
    if not spans:
        raise ValueError(f"the chat template of {tokenizer.label} marks no response in this conversation")
    return text[: spans[-1][1]], spans


def render_prompt(tokenizer: HuggingFaceTokenizer, messages: Sequence[tuple[str, str]]) -> str:
    """Return the text of a conversation with the beginning of the assistant's next message; raise ValueError."""
    _check_contents(tokenizer.inner, messages)
    return _render(tokenizer.inner, _template(tokenizer), messages, add_generation_prompt=True)[0]


def _template(tokenizer: HuggingFaceTokenizer) -> str:
    template = getattr(tokenizer.inner, "chat_template", None)
    if not isinstance(template, str):
        raise ValueError(f"{tokenizer.label} has no chat template; write chat: plain, or give its folder one")
    return template


def _check_contents(inner: Any, messages: Sequence[tuple[str, str]]) -> None:
    """Raise ValueError for a content with the name of a special token, which would be read as that token."""
    added = {str(token) for token in inner.added_tokens_decoder.values() if token.special}
    names = sorted(filter(None, added | set(inner.all_special_tokens)))
    for number, (role, content) in enumerate(messages, 1):
        if found := next((name for name in names if name in content), None):
            raise ValueError(f"message {number} ({role}) holds {found!r}, which the tokenizer reads as a special token")


def _render(
    inner: Any, template: str, messages: Sequence[tuple[str, str]], *, add_generation_prompt: bool = False
) -> tuple[str, Spans]:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    chat = [{"role": role, "content": content} for role, content in messages]
    try:
        texts, marked = render_jinja_template(
            [chat],
            chat_template=template,
            return_assistant_tokens_mask=_MARKS.search(template) is not None,
            add_generation_prompt=add_generation_prompt,
            **inner.special_tokens_map,
        )
    except (TemplateError, TypeError, KeyError) as error:
        raise ValueError(f"the chat template refuses this conversation: {error}") from error
    return texts[0], tuple((start, end) for start, end in (marked or [()])[0])


def _find_contents(inner: Any, template: str, messages: Sequence[tuple[str, str]], text: str) -> Spans:
    """Find the assistant's contents in a conversation's text, each with the special token after it.

    The template is rendered with marks in place of contents, so that a content is not mistaken for the text around it.
    """
    marks = [(role, f"\u241e{number}\u241e") for number, (role, _) in enumerate(messages)]
    rest, _ = _render(inner, template, marks)
    literals: list[str] = []
    for number, (_, mark) in enumerate(marks):
        before, found, rest = rest.partition(mark)
        if not found:
            raise ValueError(
                f"the chat template leaves out message {number + 1}; a template with generation marks fits"
            )
        literals.append(before)
    for contents in ([content for _, content in messages], [content.strip() for _, content in messages]):
        built, spans = "", []
        for literal, content, (role, _) in zip(literals, contents, messages, strict=True):
            built += literal
            spans += [(len(built), len(built) + len(content))] if role == ASSISTANT else []
            built += content
        if built + rest == text:
            return tuple((start, _end_of_turn(inner, text, end)) for start, end in spans)
    raise ValueError("the chat template changes the contents of messages; a template with generation marks fits")


def _end_of_turn(inner: Any, text: str, end: int) -> int:
    """Return the end of the special token at position `end`; `end` itself without such a token."""
    added = {str(token) for token in inner.added_tokens_decoder.values() if token.special}
    names = sorted(added | set(inner.all_special_tokens), key=len, reverse=True)
    return next((end + len(name) for name in names if name and text.startswith(name, end)), end)
