"""Sapiens: a third-party masked language model of antibody chains, loaded from the wheel that ships its weights.

``pip install --no-deps sapiens==1.0.5`` (MIT, 7 MB; 1.1.0 no longer has the weights; its own requirements, fairseq and
an old torch, are not needed here). Two RoBERTa models of 0.57 M parameters, one a chain type; a token is a residue, a
chain is written ``<s>QVQL...</s>`` and has at most 142 residues (heavy) or 126 (light).

Source: Prihoda et al. 2022 (BioPhi), doi:10.1080/19420862.2021.2020203; github.com/Merck/Sapiens.
"""

from __future__ import annotations

import re
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from envs.models.adapter import MaskedLMDenoiser

CHECKPOINTS = {"sapiens:heavy": "checkpoint_vh.pt", "sapiens:light": "checkpoint_vl.pt"}
"""Files of the wheel's ``models/v1`` by model name."""

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
VOCABULARY = (*SPECIAL, *"ACDEFGHIKLMNPQRSTVWY", "<mask>")
"""Tokens by id: fairseq's own, the file ``dict.txt``, and the mask that fairseq's masked-LM task appends."""

KEY_PATTERNS = (
    (r"^decoder\.sentence_encoder\.embed_tokens\.", "roberta.embeddings.word_embeddings."),
    (r"^decoder\.sentence_encoder\.embed_positions\.", "roberta.embeddings.position_embeddings."),
    (r"^decoder\.sentence_encoder\.emb_layer_norm\.", "roberta.embeddings.LayerNorm."),
    (r"^decoder\.sentence_encoder\.layers\.", "roberta.encoder.layer."),
    (r"\.self_attn\.([qkv])_proj\.", r".attention.self.\1."),
    (r"\.self\.q\.", ".self.query."),
    (r"\.self\.k\.", ".self.key."),
    (r"\.self\.v\.", ".self.value."),
    (r"\.self_attn\.out_proj\.", ".attention.output.dense."),
    (r"\.self_attn_layer_norm\.", ".attention.output.LayerNorm."),
    (r"\.fc1\.", ".intermediate.dense."),
    (r"\.fc2\.", ".output.dense."),
    (r"\.final_layer_norm\.", ".output.LayerNorm."),
    (r"^decoder\.lm_head\.weight$", "lm_head.decoder.weight"),
    (r"^decoder\.lm_head\.", "lm_head."),
)
"""fairseq's names of tensors as regular expressions, in the order of their replacement by transformers' names."""


class SapiensDenoiser(MaskedLMDenoiser):
    """Sapiens as a dLLM that predicts residues only, as the wheel's own ``predict_best_score`` does."""

    def _answer(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        logits, hidden = super()._answer(*args, **kwargs)
        return logits.index_fill(-1, torch.arange(len(SPECIAL), device=logits.device), -torch.inf), hidden


def load_sapiens(name: str, device: str = "cpu", dtype: str = "float32") -> SapiensDenoiser:
    """Load one of `CHECKPOINTS` from the installed wheel.

    Args:
        name: of the model.
        device: a torch device.
        dtype: a torch dtype's name.

    Raises:
        FileNotFoundError: if the wheel is not installed, or a version without weights.
        ValueError: if the name, device or dtype is not possible, or the checkpoint is not the expected one.
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"model is {name!r}: choose from {', '.join(CHECKPOINTS)}")
    model = build_model(read_checkpoint(checkpoint_file(name)))
    try:
        model = model.to(device=device, dtype=getattr(torch, dtype))
    except (AttributeError, AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"device is {device!r} and dtype {dtype!r}: torch can't use them here ({error}); try cpu and float32"
        ) from error
    return SapiensDenoiser(model, build_tokenizer())


def checkpoint_file(name: str) -> Path:
    """Return where the installed wheel has a model's checkpoint.

    Raises:
        FileNotFoundError: if it has not.
    """
    # The package is found, not imported: that would need fairseq.
    spec = find_spec("sapiens")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        file = Path(folder) / "models" / "v1" / CHECKPOINTS[name]
        if file.is_file():
            return file
    raise FileNotFoundError(f"model is {name!r}: run pip install --no-deps sapiens==1.0.5 (1.1.0 has no weights)")


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Read a fairseq checkpoint's tensors, under fairseq's names and without fairseq.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        # Its only other objects are the command line's arguments.
        with torch.serialization.safe_globals([Namespace]):
            tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)["model"]
    except (OSError, RuntimeError, EOFError, KeyError, UnpicklingError) as error:
        raise ValueError(f"checkpoint {file} can't be read ({error}): install sapiens==1.0.5 again") from error
    return tensors


def renamed(name: str) -> str:
    """Return transformers' name of one of fairseq's tensors.

    >>> renamed("decoder.sentence_encoder.layers.3.self_attn.q_proj.bias")
    'roberta.encoder.layer.3.attention.self.query.bias'
    """
    for pattern, replacement in KEY_PATTERNS:
        name = re.sub(pattern, replacement, name)
    return name


def build_model(tensors: dict[str, Tensor]) -> RobertaForMaskedLM:
    """Build the model that fairseq's tensors are of.

    Raises:
        ValueError: if a tensor is missing, left over or of another shape.
    """
    own = {renamed(name): values for name, values in tensors.items()}
    positions = own.get("roberta.embeddings.position_embeddings.weight", torch.empty(2, 0))
    config = RobertaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=len(positions),  # two more than tokens: numbering starts at the padding's id + 1
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=VOCABULARY.index("<s>"),
        pad_token_id=VOCABULARY.index("<pad>"),
        eos_token_id=VOCABULARY.index("</s>"),
        tie_word_embeddings=True,
    )
    model = RobertaForMaskedLM(config)
    # fairseq has no token types; transformers keeps the output bias under two names.
    own["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, config.hidden_size)
    own["lm_head.decoder.bias"] = own.get("lm_head.bias", torch.zeros(len(VOCABULARY)))
    try:
        model.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint is not the one of sapiens==1.0.5: {error}") from error
    return model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: a token is a residue's letter or one of the special tokens."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
    )
