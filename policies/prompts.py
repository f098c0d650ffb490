"""Prompts as texts, as chat messages, and as tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from envs.denoiser import Denoiser
from policies.files import check_characters

Message = Mapping[str, str]
"""One turn of a conversation: ``{"role": "user", "content": "What is 2 + 2?"}``."""


def as_list(name: str, values: Any) -> list[Any]:
    """Return what an argument lists; a text lists nothing, though Python would take its letters."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"{name} is {values!r}: give a list, such as [{str(values)!r}]")
    return list(values)


def as_text(prompt: str | Sequence[Message], tokenizer: Any, place: int) -> str:
    """Return a prompt's text, of a conversation by the tokenizer's chat template."""
    check_prompt(f"prompts[{place}]", prompt)
    if isinstance(prompt, str):
        return prompt
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(f"prompts[{place}] is a list of messages, but the tokenizer has no chat template: give a text")
    # As text, not tokens: the prompt then takes the same way as one that had its template already.
    text: str = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    return text


def check_prompt(name: str, prompt: Any) -> None:
    """Refuse what is neither a text nor a conversation.

    Args:
        name: what it is called, for the message.
        prompt: any.

    Raises:
        ValueError: if it is something else, or holds half a character.
    """
    if not isinstance(prompt, str):
        is_conversation = isinstance(prompt, list | tuple) and all(isinstance(turn, Mapping) for turn in prompt)
        if not is_conversation or not prompt or not all({"role", "content"} <= turn.keys() for turn in prompt):
            raise ValueError(
                f'{name} is {prompt!r}: it must be a text, or a list of messages {{"role": ..., "content": ...}}'
            )
    texts = [prompt] if isinstance(prompt, str) else [value for turn in prompt for value in turn.values()]
    for text in texts:
        if isinstance(text, str):
            check_characters(name, text)


def encode_one(denoiser: Denoiser, prompt: str | Sequence[Message], place: int) -> list[int]:
    """Return the tokens of a prompt or a conversation."""
    check_prompt(f"prompts[{place}]", prompt)
    if isinstance(prompt, str):
        return denoiser.encode_prompt(prompt)
    encode: Callable[[Sequence[Message]], list[int]] | None = getattr(denoiser, "encode_messages", None)
    if encode is None:
        raise ValueError(f"prompts[{place}] is a list of messages, but this dLLM has no chat template: give a text")
    return encode(prompt)
