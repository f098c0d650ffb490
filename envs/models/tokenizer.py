"""A checkpoint's tokenizer, and the ids that decoding must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.models.families.family import Family


@dataclass(frozen=True)
class TokenIds:
    """Special token ids of a dLLM.

    Attributes:
        mask: what a position holds before it is committed.
        eos: end of text; it fills what follows one.
        ends: every id that ends a text, `eos` first.
        pad: what stands left of a shorter prompt; the model never sees it.
    """

    mask: int
    eos: int
    ends: tuple[int, ...]
    pad: int


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
"""Any of these is a tokenizer of its own."""

MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>")
"""How masked language models write the mask where nothing declares it, as in a tokenizer.json alone."""

END_NAMES = ("</s>", "[SEP]", "[EOS]", "<|endoftext|>")
"""The same for the end of a text."""


def load_tokenizer(family: Family, folder: Path, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer without running the checkpoint's code, unless the family has no other way.

    Raises:
        ValueError: if the folder holds none that transformers can load.
    """
    import transformers

    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        # transformers would make up a tokenizer of a few words.
        raise ValueError(f"{folder} holds no tokenizer.json")
    cls = getattr(transformers, family.tokenizer_class)
    # Left out, it would mean to ask at the terminal.
    runs_code = trust_remote_code and family.runs_own_code
    try:
        return cls.from_pretrained(folder, local_files_only=True, trust_remote_code=runs_code)
    except Exception as error:  # each tokenizer has errors of its own
        raise ValueError(f"transformers can't load a tokenizer from {folder}: {first_line(error)}") from error


def find_ids(family: Family, tokenizer: Any, config: Mapping[str, Any], rows: int, name: str) -> TokenIds:
    """Find a dLLM's special tokens: as the tokenizer declares them, then config.json, then by their usual names.

    Args:
        family: of the checkpoint.
        tokenizer: its tokenizer.
        config: its config.json.
        rows: rows of its embedding.
        name: for the messages.

    Raises:
        ValueError: if one is missing, outside the embedding, or the mask is also another special token.
    """
    is_plain = family.is_masked_lm
    known, told = tokenizer.mask_token_id, _told(config, "mask", name)
    mask = _first(
        # A masked language model's tokenizer knows its mask; the others' may be Qwen's, which has none of that use.
        *((known, told) if is_plain else (told, known)),
        None if family.mask_token is None else _id_of(tokenizer, family.mask_token),
        *(_id_of(tokenizer, token) for token in MASK_NAMES if is_plain),
    )
    eos = _first(
        # BERT's tokenizers call the end a separator.
        *(tokenizer.eos_token_id, tokenizer.sep_token_id, _told(config, "eos", name), _told(config, "sep", name)),
        *(_id_of(tokenizer, token) for token in END_NAMES if is_plain),
    )
    if mask is None or eos is None:
        what = "mask_token_id" if mask is None else "eos_token_id"
        raise ValueError(
            f"{what} is None in the tokenizer of {name!r} and in its config.json: the dLLM needs one; set it in "
            "config.json"
        )
    ends: list[int] = [eos]
    for token in family.end_tokens:
        end = _id_of(tokenizer, token)
        if end is None:
            raise ValueError(f"the tokenizer of {name!r} lacks {token}, which ends a text of the {family.name} family")
        ends.append(end)
    found_pad = _first(tokenizer.pad_token_id, _told(config, "pad", name))
    pad = eos if found_pad is None else found_pad
    for what, found in (("mask", mask), ("end-of-text", max(ends)), ("padding", pad)):
        if not 0 <= found < rows:
            raise ValueError(f"the {what} token of {name!r} is {found}: its embedding has only {rows} rows")
    if mask in (*ends, pad):
        raise ValueError(f"the mask token of {name!r} is {mask}, which is also its end-of-text or padding token")
    return TokenIds(mask, eos, tuple(dict.fromkeys(ends)), pad)


def _first(*found: int | None) -> int | None:
    return next((one for one in found if one is not None), None)


def _told(config: Mapping[str, Any], what: str, name: str) -> int | None:
    """Return a special token's id in config.json; of several, the first."""
    told = config.get(f"{what}_token_id")
    if isinstance(told, list) and told:
        told = told[0]
    if told is not None and (not isinstance(told, int) or isinstance(told, bool)):
        raise ValueError(
            f"model is {name!r}: config.json sets {what}_token_id to {told!r}, but an id is a whole number"
        )
    return told


def _id_of(tokenizer: Any, token: str) -> int | None:
    found: int | None = tokenizer.get_vocab().get(token)
    return found


def first_line(error: Exception) -> str:
    """Return what an error says first; those of transformers go on with advice that fits its own users."""
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__
