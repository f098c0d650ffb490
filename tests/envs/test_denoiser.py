from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from envs import DecodingBatch, DecodingSettings, Denoiser, MaskedLMDenoiser, load_denoiser
from envs.beliefs import DenoiserError
from envs.models.toy import ToyDenoiser
from envs.tasks import SUITE, TASKS, make_tasks
from envs.view import Action
from train.pretraining.architectures import build_model, build_tokenizer
from train.pretraining.config import PretrainConfig

MAX_LENGTH = 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model like the one that ships, but tiny, and with weights large enough to have opinions."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(make_tasks(SUITE))
    model = build_model(PretrainConfig(hidden_size=32, num_layers=2, num_heads=2, max_positions=MAX_LENGTH), tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def random_denoiser(checkpoint: Path) -> MaskedLMDenoiser:
    denoiser = load_denoiser(str(checkpoint))
    assert isinstance(denoiser, MaskedLMDenoiser)
    return denoiser


PROMPTS = ["copy", "copy . . : a b", ". . : c d e =", "reverse . . : a b c d . . . . . ."]


def decode(denoiser: Denoiser, prompts: list[str]) -> DecodingBatch:
    """Load the prompts and take two steps."""
    batch = DecodingBatch(denoiser, len(prompts), DecodingSettings(8, 8, features=frozenset({"entropy"})))
    batch.load(range(len(prompts)), [denoiser.encode_prompt(prompt) for prompt in prompts])
    batch.forward()
    batch.apply(Action(torch.arange(8).expand(len(prompts), 8) == 3))
    batch.forward()
    return batch


def test_left_padded_row_is_the_row_alone(random_denoiser: MaskedLMDenoiser) -> None:
    together = decode(random_denoiser, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = decode(random_denoiser, [prompt])
        assert torch.allclose(together.view.confidence[row], alone.view.confidence[0], atol=1e-5)
        assert torch.allclose(together.view.features["entropy"][row], alone.view.features["entropy"][0], atol=1e-5)
        assert torch.equal(together.view.prediction[row], alone.view.prediction[0])
    spread = together.view.confidence[:, 0].std()
    assert spread > 1e-3  # prompts matter to this model


def test_a_model_with_absolute_positions_is_refused() -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(make_tasks(SUITE))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, initializer_range=0.1, **sizes))
    with pytest.raises(ValueError, match=r"\(bert\): its predictions change with left padding"):
        MaskedLMDenoiser(model, tokenizer)


def test_logits_are_those_of_the_buffer(random_denoiser: MaskedLMDenoiser) -> None:
    tokens = torch.tensor([random_denoiser.encode_prompt("copy . . : a b =") + [random_denoiser.mask_id] * 4])
    everything = torch.ones_like(tokens, dtype=torch.bool)
    logits = random_denoiser.logits(tokens, everything, 4)
    assert logits.shape == (1, 4, len(random_denoiser.tokenizer))
    assert torch.allclose(logits, random_denoiser.model(input_ids=tokens).logits[:, 7:])
    assert not logits.requires_grad


def test_max_length_is_what_the_model_takes(random_denoiser: MaskedLMDenoiser) -> None:
    assert random_denoiser.max_length == MAX_LENGTH
    batch = DecodingBatch(random_denoiser, 1, DecodingSettings(8, 8))
    batch.load([0], [random_denoiser.encode_prompt("a " * 32)])
    assert torch.isfinite(batch.forward().confidence).all()
    with pytest.raises(ValueError, match="prompt has 33 tokens: it must have 1 to 32"):
        batch.load([0], [random_denoiser.encode_prompt("a " * 33)])
    tokens = torch.full((1, MAX_LENGTH + 1), random_denoiser.mask_id)
    with pytest.raises((IndexError, RuntimeError)):
        random_denoiser.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), 8)


def test_frozen(random_denoiser: MaskedLMDenoiser) -> None:
    assert not any(parameter.requires_grad for parameter in random_denoiser.model.parameters())
    assert not any(module.training for module in random_denoiser.model.modules())


def test_text(random_denoiser: MaskedLMDenoiser) -> None:
    for task in TASKS.values():
        problem = task().problem("train", 0)
        assert len(random_denoiser.encode_prompt(problem.prompt)) == 21
        for text in (problem.prompt, problem.answer):
            assert random_denoiser.decode(random_denoiser.encode_prompt(text)) == text
    mask, eos, pad = random_denoiser.mask_id, random_denoiser.eos_id, random_denoiser.pad_id
    a, b, c = random_denoiser.encode_prompt("a b c")
    assert random_denoiser.decode([a, mask, pad, b, eos, c, eos]) == "a b"
    assert random_denoiser.decode([eos, a]) == ""
    assert random_denoiser.decode([]) == ""
    assert random_denoiser.token_strings([a, mask, eos]) == ["a", "[MASK]", "[EOS]"]


@pytest.mark.parametrize("missing", ["mask_token", "eos_token"])
def test_tokenizer_without_a_token(
    random_denoiser: MaskedLMDenoiser, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    tokenizer: PreTrainedTokenizerFast = build_tokenizer(make_tasks(SUITE))
    expected = getattr(tokenizer, f"{missing}_id")
    setattr(tokenizer, missing, None)
    denoiser = MaskedLMDenoiser(random_denoiser.model, tokenizer)  # the model's configuration knows it
    assert {"mask_token": denoiser.mask_id, "eos_token": denoiser.eos_id}[missing] == expected
    monkeypatch.setattr(random_denoiser.model.config, f"{missing}_id", None)
    usual_names = {name: i for name, i in tokenizer.get_vocab().items() if name not in ("[MASK]", "[EOS]")}
    monkeypatch.setattr(type(tokenizer), "get_vocab", lambda self: usual_names)
    with pytest.raises(ValueError, match=f"{missing}_id is None in the tokenizer .* and in its config.json"):
        MaskedLMDenoiser(random_denoiser.model, tokenizer)


def test_nan_weights_raise(checkpoint: Path, tmp_path: Path) -> None:
    denoiser = load_denoiser(str(shutil.copytree(checkpoint, tmp_path / "nan")))
    assert isinstance(denoiser, MaskedLMDenoiser)
    with torch.no_grad():
        denoiser.model.lm_head.bias[5] = torch.nan
    with pytest.raises(DenoiserError, match="NaN or infinite logits"):
        decode(denoiser, PROMPTS[:1])


def test_bfloat16_gives_float32_beliefs(checkpoint: Path, random_denoiser: MaskedLMDenoiser) -> None:
    denoiser = load_denoiser(str(checkpoint), dtype="bfloat16")
    assert isinstance(denoiser, MaskedLMDenoiser)
    assert denoiser.model.dtype == torch.bfloat16
    view, exact = decode(denoiser, PROMPTS).view, decode(random_denoiser, PROMPTS).view
    assert view.confidence.dtype == view.features["entropy"].dtype == torch.float32
    assert (view.features["entropy"] - exact.features["entropy"]).abs().mean() < 0.2


# Loading.


def test_load_returns_the_same_object(checkpoint: Path) -> None:
    assert load_denoiser(str(checkpoint)) is load_denoiser(str(checkpoint))
    assert isinstance(load_denoiser("toy"), ToyDenoiser)


def test_load_returns_the_same_object_however_its_arguments_are_written() -> None:
    assert load_denoiser("toy") is load_denoiser(name="toy")
    assert load_denoiser("toy") is load_denoiser("toy", "cpu", "float32")


def test_protocol(random_denoiser: MaskedLMDenoiser) -> None:
    assert isinstance(random_denoiser, Denoiser)
    assert random_denoiser.device == torch.device("cpu")
    assert len({random_denoiser.mask_id, random_denoiser.eos_id, random_denoiser.pad_id}) == 3


def test_load_without_a_model(tmp_path: Path) -> None:
    for name in ("no-such-model", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=rf"model is '{name}'.*toy"):
            load_denoiser(name)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8': choose float32, bfloat16 or float16"),
        ({"device": "gpu"}, "device is 'gpu'.*try cpu"),
        ({"device": "cuda:99"}, "device is 'cuda:99'.*try cpu"),
    ],
)
def test_load_with_impossible_arguments(checkpoint: Path, kwargs: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_denoiser(str(checkpoint), **kwargs)


def configure(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def cut_weights(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1000])


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda folder: (folder / "config.json").write_text("{"), id="config is not json"),
        pytest.param(lambda folder: (folder / "config.json").write_text("{}"), id="config names no model"),
        pytest.param(configure(model_type="llada"), id="unknown architecture"),
        pytest.param(configure(model_type="gpt2"), id="not a masked LM"),
        pytest.param(lambda folder: (folder / "model.safetensors").unlink(), id="no weights"),
        pytest.param(cut_weights, id="half downloaded weights"),
        pytest.param(configure(hidden_size=64), id="weights of another size"),
        pytest.param(configure(num_hidden_layers=3), id="weights of a layer missing"),
        pytest.param(without_tokenizer, id="no tokenizer"),
    ],
)
def test_broken_folder(checkpoint: Path, tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "broken")
    spoil(folder)
    with pytest.raises(ValueError, match="model is '"):
        load_denoiser(str(folder))


def test_a_device_that_is_not_here_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"device is 'mps': torch can't use it here \(.*\); try cpu$") as caught:
        load_denoiser("tiny", device="mps")
    assert "\n" not in str(caught.value)
