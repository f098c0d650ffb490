"""What differs between families of dLLMs, as data: the one description that loading and decoding read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RouteName = Literal["masked_lm", "native", "remote"]


def _unchanged(key: str) -> str:
    return key


def _none(config: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """How one family of dLLMs is loaded and asked.

    Attributes:
        name: what the settings call it.
        model_types: values of ``model_type`` in config.json that mean it.
        architectures: values in ``architectures`` that mean it.
        route: of `envs.models.routes.ROUTES`: ``masked_lm`` (transformers' ``AutoModelForMaskedLM``), ``native`` (a
            causal class of transformers, given explicit masks) or ``remote`` (the checkpoint's own code).
        native_class: the class of the native route.
        config_map: from the checkpoint's config.json to the native class's configuration.
        key_map: from the checkpoint's tensor names to the native class's.
        tokenizer_class: the tokenizer's class in transformers; ``AutoTokenizer`` asks the checkpoint.
        mask_token: how the tokenizer writes the mask where neither config.json nor the tokenizer declares its id.
        end_tokens: further tokens that end a text (end of turn).
        stop_strings: texts that end a text but are several tokens; what follows them is cut from the decoded text.
        block_length: positions that see each other in a block-causal model; None where all see all.
        block_key: field of config.json that overrides it.
        block_origin: where blocks are counted from: the end of the prompt, or the start of the text.
        logit_shift: 1 where the logits at position i are about the token at i + 1.
        max_length: most tokens it was trained on, where its configuration promises more.
        sees_far: False where some layers see only near positions, so that no mask of ours can say who sees whom.
        chat_options: arguments of the chat template.
    """

    name: str
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    route: RouteName = "native"
    native_class: str = ""
    config_map: Callable[[Mapping[str, Any]], dict[str, Any]] = _none
    key_map: Callable[[str], str] = _unchanged
    tokenizer_class: str = "AutoTokenizer"
    mask_token: str | None = None
    end_tokens: tuple[str, ...] = ()
    stop_strings: tuple[str, ...] = ()
    block_length: int | None = None
    block_key: str | None = None
    block_origin: Literal["prompt_end", "absolute"] = "prompt_end"
    logit_shift: int = 0
    max_length: int | None = None
    sees_far: bool = True
    chat_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_masked_lm(self) -> bool:
        """Whether its checkpoints are masked language models of transformers, each as its tokenizer declares it."""
        return self.route == "masked_lm"

    @property
    def runs_own_code(self) -> bool:
        """Whether its checkpoints run code of their own, which only a user can allow and nobody can look into."""
        return self.route == "remote"

    def block_of(self, config: Mapping[str, Any]) -> int | None:
        """Return the block length of a checkpoint, None where all positions see all.

        Args:
            config: its config.json.
        """
        if self.block_length is None or self.block_key is None:
            return self.block_length
        return int(config.get(self.block_key, self.block_length))


PLAIN = Family("masked_lm", route="masked_lm")
"""Any checkpoint that ``AutoModelForMaskedLM`` loads: everything is as its tokenizer declares it."""
