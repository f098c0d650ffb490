"""A checkpoint's tokenizer, and the ids that decoding must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.models.family import Family


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


def load_tokenizer(family: Family, folder: Path, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer without running the checkpoint's code, unless the family has no other way.

    Raises:
        ValueError: if the folder holds none that transformers can load.
    """
    import transformers

    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        # transformers would make up a tokenizer of a few words.
        raise ValueError(f"{folder} holds no tokenizer.json")
    cls = getattr(transformers, family.tokenizer_class)
    options = {"trust_remote_code": True} if trust_remote_code and family.route == "remote" else {}
    try:
        return cls.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"transformers can't load a tokenizer from {folder}: {error}") from error


def find_ids(family: Family, tokenizer: Any, config: Mapping[str, Any], rows: int, name: str) -> TokenIds:
    """Find a dLLM's special tokens: in config.json, then in the tokenizer, then by the family's names.

    Args:
        family: of the checkpoint.
        tokenizer: its tokenizer.
        config: its config.json.
        rows: rows of its embedding.
        name: for the messages.

    Raises:
        ValueError: if one is missing, outside the embedding, or the mask is also another special token.
    """
    # A masked language model's tokenizer always knows its mask.
    mask = None if family.route == "masked_lm" else config.get("mask_token_id")
    if mask is None:
        mask = tokenizer.mask_token_id
    if mask is None and family.mask_token is not None:
        mask = _id_of(tokenizer, family.mask_token)
    eos = next((found for found in (getattr(tokenizer, one) for one in family.eos_tokens) if found is not None), None)
    if mask is None or eos is None:
        what = "mask_token_id" if mask is None else "eos_token_id"
        raise ValueError(f"{what} is None in the tokenizer of {name!r}: the dLLM needs one")
    ends: list[int] = [eos]
    for token in family.end_tokens:
        end = _id_of(tokenizer, token)
        if end is None:
            raise ValueError(f"the tokenizer of {name!r} lacks {token}, which ends a text of the {family.name} family")
        ends.append(end)
    pad: int = eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    for what, found in (("mask", mask), ("end-of-text", max(ends)), ("padding", pad)):
        if not 0 <= found < rows:
            raise ValueError(f"the {what} token of {name!r} is {found}: its embedding has only {rows} rows")
    if mask in (*ends, pad):
        raise ValueError(f"the mask token of {name!r} is {mask}, which is also its end-of-text or padding token")
    return TokenIds(int(mask), eos, tuple(dict.fromkeys(ends)), pad)


def _id_of(tokenizer: Any, token: str) -> int | None:
    found: int | None = tokenizer.get_vocab().get(token)
    return found
