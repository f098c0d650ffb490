"""Texts that rules count tokens on where they need to know which are common."""

from __future__ import annotations

from itertools import product

from envs.denoiser import Denoiser
from envs.tasks import SUITE, make_tasks
from envs.tasks.benchmarks.files import user_path

EXAMPLES = 500
"""Training answers a task of an embedded suite that are counted."""


def read_corpus(denoiser: Denoiser, file: str = "") -> list[tuple[list[int], list[int]]]:
    """Return texts as token ids: pairs of what a text follows, perhaps nothing, and the text with its end-of-text.

    Without a file they are training answers of an embedded suite, each after its prompt: of the prose suite where the
    dLLM's tokenizer can write it, as that of any dLLM of natural language can, else of the first suite, whose words
    those of the embedded dLLM are.

    Args:
        denoiser: whose tokenizer it is.
        file: of plain text, with a blank line between one text and the next.

    Raises:
        ValueError: if the file can't be read or holds no text.
    """
    if file:
        return [([], [*denoiser.encode_text(text), denoiser.eos_id]) for text in paragraphs_of(file)]
    prose = [task.problem("train", 0).answer for task in make_tasks("prose")]
    can_write_prose = all(denoiser.decode(denoiser.encode_text(text)) == text for text in prose)
    suite = "prose" if can_write_prose else SUITE
    places = product(make_tasks(suite), range(EXAMPLES))
    problems = [task.problem("train", index) for task, index in places]
    return [
        (denoiser.encode_prompt(one.prompt), [*denoiser.encode_text(one.answer), denoiser.eos_id]) for one in problems
    ]


def paragraphs_of(file: str, option: str = "corpus") -> list[str]:
    """Return the texts of a file, which blank lines part.

    Args:
        file: of plain text.
        option: what names it, for the message.

    Raises:
        ValueError: if it can't be read or holds no text.
    """
    try:
        parts = user_path(file).read_text(encoding="utf-8").split("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{option} is {file!r}: not readable ({error})") from error
    texts = [part.strip() for part in parts if part.strip()]
    if not texts:
        raise ValueError(f"{option} is {file!r}: there is no text in it")
    return texts
