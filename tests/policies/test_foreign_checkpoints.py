"""Folders that strangers made: their code never runs, and each thing that can't be loaded is called by its name."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import build, write_json
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from envs import MaskedLMDenoiser, load_denoiser
from envs.models.load import SHIPPED, load_guide

# Code in the folder.

PLANTED = """
import pathlib
from transformers import {bases}

pathlib.Path({trace!r}).write_text("ran")


class OwnConfig(PretrainedConfig):
    model_type = "mystery"


class OwnModel(BertForMaskedLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def plant(folder: Path, trace: Path, **changes: Any) -> Path:
    """Give a folder code of its own, and say everywhere that it is needed."""
    bases = "BertForMaskedLM, PretrainedConfig, PreTrainedTokenizerFast"
    (folder / "own.py").write_text(PLANTED.format(bases=bases, trace=str(trace)))
    classes = ("AutoModel", "AutoModelForMaskedLM", "AutoModelForCausalLM")
    auto_map: dict[str, Any] = {"AutoConfig": "own.OwnConfig", **dict.fromkeys(classes, "own.OwnModel")}
    auto_map["AutoTokenizer"] = ["own.OwnTokenizer", "own.OwnTokenizer"]
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "auto_map": auto_map, **changes})
    if (folder / "tokenizer_config.json").is_file():
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings |= {"auto_map": {"AutoTokenizer": auto_map["AutoTokenizer"]}, "tokenizer_class": "OwnTokenizer"}
        write_json(folder / "tokenizer_config.json", settings)
    return folder


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that planted code writes; whoever is asked at the terminal says yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    return tmp_path / "trace"


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("family", [None, "masked_lm"])
def test_an_unknown_model_neither_asks_nor_runs(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trust: bool, family: str | None
) -> None:
    folder = plant(build("modernbert", tmp_path / "own"), trace, model_type="mystery", architectures=["OwnModel"])
    with pytest.raises(
        ValueError, match=r"of type 'mystery' \(its own code is not run\), which is none of the familie"
    ):
        load_denoiser(str(folder), trust_remote_code=trust, family=family)
    assert not trace.exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("family", ["llada", "dream", "fast_dllm_v2", "sdar", "a2d_mdlm", "modernbert"])
@pytest.mark.parametrize("trust", [False, True])
def test_a_known_family_does_not_run_its_own_code(trace: Path, tmp_path: Path, family: str, trust: bool) -> None:
    folder = plant(build(family.removesuffix("_mdlm"), tmp_path / "own"), trace)
    load_denoiser(str(folder), family=family, trust_remote_code=trust)
    assert not trace.exists()


def test_a_guide_runs_no_code(trace: Path, tmp_path: Path) -> None:
    guide = shutil.copytree(SHIPPED["tiny_guide"], tmp_path / "guide")
    load_guide(str(plant(guide, trace)))
    with pytest.raises(ValueError, match="of type 'mystery', which is no causal language model"):
        load_guide(str(plant(shutil.copytree(guide, tmp_path / "other"), trace, model_type="mystery")))
    assert not trace.exists()


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("name", ["modernbert", "llada"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_is_not_run(trace: Path, tmp_path: Path, name: str, is_zip: bool) -> None:
    folder = build(name, tmp_path / "own")
    for file in folder.glob("model*"):
        file.unlink()
    held = {"model.embeddings": Hostile(trace)}
    torch.save(held, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=r"pytorch_model.bin is damaged or holds more than tensors") as caught:
        load_denoiser(str(folder))
    assert "weights_only" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_an_honest_pickle_is_read(tmp_path: Path, is_zip: bool) -> None:
    folder = build("dream", tmp_path / "own")
    expected = load_denoiser(str(folder))
    tensors = load_file(folder / "model.safetensors")
    again = shutil.copytree(folder, tmp_path / "again")
    (again / "model.safetensors").unlink()
    torch.save(tensors, again / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    loaded = load_denoiser(str(again))
    assert isinstance(loaded, MaskedLMDenoiser)
    assert isinstance(expected, MaskedLMDenoiser)
    theirs = loaded.model.state_dict()
    assert all(torch.equal(values, theirs[name]) for name, values in expected.model.state_dict().items())


# What it is instead.


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configure(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | changes)
    return folder


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_denoiser(str(folder))
    assert repr(str(folder)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_causal_model_is_no_dllm(tmp_path: Path) -> None:
    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
    refused(folder, "describes GPT2LMHeadModel, a causal language model and no dLLM")
    refused(shutil.copytree(SHIPPED["tiny_guide"], tmp_path / "guide"), "a causal language model and no dLLM")
    # Some families have both kinds.
    bert = configure(build("modernbert", tmp_path / "bert"), model_type="roberta", architectures=["RobertaForCausalLM"])
    refused(bert, "describes RobertaForCausalLM, a causal language model and no dLLM")


@pytest.mark.parametrize("model_type", ["t5", "dream-next", "", None, 5, ["llada"]])
def test_an_unsupported_family(tmp_path: Path, model_type: Any) -> None:
    folder = configure(build("modernbert", tmp_path / "x"), model_type=model_type, architectures=None)
    refused(folder, r"of type .*which is none of the families llada, dream, .* set family if")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["modernbert", "dream"])
def test_weights_without_a_number(tmp_path: Path, name: str, value: float) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        next(tensor for tensor in tensors.values() if tensor.ndim == 2)[3, 3] = value

    refused(
        change_weights(build(name, tmp_path / "x"), spoil), "weights hold NaN or infinite values in .*weight: the ch"
    )


def test_weights_too_large_for_float16(tmp_path: Path) -> None:
    def grow(tensors: dict[str, Tensor]) -> None:
        tensors["model.norm.weight"][0] = 1e6

    folder = change_weights(build("dream", tmp_path / "x"), grow)
    with pytest.raises(
        ValueError, match=r"values in model.norm.weight that torch.float16 can't: use bfloat16 or float"
    ):
        load_denoiser(str(folder), dtype="float16")
    load_denoiser(str(folder), dtype="bfloat16")


@pytest.mark.parametrize("name", ["a2d_mdlm", "llada"])
def test_a_head_that_is_not_tied(tmp_path: Path, name: str) -> None:
    if name == "llada":
        folder = build("llada", tmp_path / "x", weight_tying=True)
    else:
        folder = change_weights(
            build("a2d", tmp_path / "a2d_mdlm"), lambda tensors: tensors.update({"lm_head.weight": torch.ones(320, 64)})
        )
    refused(folder, r"output layer is the embedding, but .* is another tensor .*weight_tying\) to false")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["modernbert", "dream"])
def test_quantised_tensors(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    def quantise(tensors: dict[str, Tensor]) -> None:
        which = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
        tensors[which] = tensors[which].to(dtype)

    refused(
        change_weights(build(name, tmp_path / "x"), quantise), "weights hold .* as .*: quantised weights are not sup"
    )


@pytest.mark.parametrize("name", ["modernbert", "llada", "sdar"])
def test_a_quantised_checkpoint(tmp_path: Path, name: str) -> None:
    folder = configure(build(name, tmp_path / "x"), quantization_config={"quant_method": "gptq", "bits": 4})
    refused(folder, r"says that it is quantised \(gptq\), which is not supported")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "[1]", "holds no object of settings"),
        ("config.json", "[" * 100_000, "is not JSON"),
        ("model.safetensors.index.json", '{"weight_map": 3}', "index.json is damaged"),
        ("model.safetensors.index.json", "{", "index.json is damaged"),
        ("tokenizer.json", "{", "can't load a tokenizer"),
        ("pytorch_model.bin", "", "pytorch_model.bin is damaged"),
        ("pytorch_model.bin", "PK\x03\x04", "pytorch_model.bin is damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = build("llada", tmp_path / "x")
    if file.endswith(".bin"):
        for shard in folder.glob("model*"):
            shard.unlink()
    (folder / file).write_text(text)
    refused(folder, message)


# Ids that one file does not say and another does.


def ids_of(folder: Path) -> tuple[Any, ...]:
    denoiser = load_denoiser(str(folder))
    assert isinstance(denoiser, MaskedLMDenoiser)
    return denoiser.mask_id, denoiser.eos_id, denoiser.end_ids, denoiser.pad_id


def test_a_tokenizer_file_alone(tmp_path: Path) -> None:
    expected = ids_of(build("modernbert", tmp_path / "whole"))
    folder = build("modernbert", tmp_path / "alone")
    (folder / "tokenizer_config.json").unlink()
    assert ids_of(folder) == expected == (257, 259, (259,), 256)
    # config.json may name one of several as a list, and the mask.
    again = configure(shutil.copytree(folder, tmp_path / "list"), eos_token_id=[258, 259], mask_token_id=260)
    assert ids_of(again) == (260, 258, (258,), 256)


def test_a_separator_ends_a_text(tmp_path: Path) -> None:
    """BERT's tokenizers know [SEP] and no end of text; some come as a vocabulary alone."""
    folder = tmp_path / "bert"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=40, initializer_range=0.3, **sizes))
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight.zero_()  # else padding would change answers
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnop"]))
    assert ids_of(folder) == (4, 3, (3,), 0)


def test_no_end_of_text_anywhere(tmp_path: Path) -> None:
    folder = configure(build("dream", tmp_path / "x"), eos_token_id="</s>")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**settings, "eos_token": None, "pad_token": None})
    refused(folder, "sets eos_token_id to '</s>', but an id is a whole number")
    refused(configure(folder, eos_token_id=None), "eos_token_id is None in the tokenizer")
    assert ids_of(configure(folder, eos_token_id=258)) == (261, 258, (258, 260), 258)
