"""Where models come from: the hub, the checkpoint's own code, and the files of configs/models."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import build, write_json, write_llada_tokenizer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlamaConfig, LlamaForCausalLM

from envs import MaskedLMDenoiser, load_denoiser
from envs.beliefs import read_beliefs
from envs.models import FAMILIES, find_family, step_memory
from envs.models.key_values import KeyValues
from envs.models.memory import count_parameters
from policies import make_rule
from train.command.config import CONFIGS, parse
from train.command.model_config import ModelConfig
from train.evaluation.measure import measure
from train.evaluation.run import EvaluateConfig
from train.job.grpo_config import TrainGRPOConfig
from train.job.ppo_config import TrainPPOConfig
from train.learn2pd import Learn2PDConfig
from train.pretraining.config import PretrainConfig
from train.watching.show import WatchConfig

MODEL_FILES = sorted((CONFIGS / "models").glob("*.yaml"))

# The hub.


def test_a_hub_model_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"model is 'no-one/no-model': there is no such folder"):
        load_denoiser("no-one/no-model")


def test_a_hub_model_is_fetched_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = build("llada", tmp_path / "llada"), []

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, "*.py" in allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    denoiser = load_denoiser("GSAI-ML/LLaDA-8B-Instruct", revision="abc")
    assert isinstance(denoiser, MaskedLMDenoiser)
    assert denoiser.family.name == "llada"
    assert asked == [("GSAI-ML/LLaDA-8B-Instruct", "abc", False)]


# The checkpoint's own code.

OWN_CODE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "llada2_moe"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(tmp_path: Path) -> Path:
    """A checkpoint that only its own code can load: a LLaMA in the place of LLaDA2's experts."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = LlamaConfig(vocab_size=320, max_position_embeddings=256, initializer_range=0.3, **sizes)
    folder = tmp_path / "own"
    LlamaForCausalLM(config).save_pretrained(folder)
    facts = config.to_dict() | {
        "model_type": "llada2_moe",
        "architectures": ["LLaDA2MoeModelLM"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
        "block_size": 8,
        "mask_token_id": 258,
    }
    write_json(folder / "config.json", facts)
    (folder / "own.py").write_text(OWN_CODE)
    write_llada_tokenizer(folder)
    text = (folder / "tokenizer.json").read_text().replace("<|eot_id|>", "<|role_end|>")
    (folder / "tokenizer.json").write_text(text)
    settings = yaml.safe_load((folder / "tokenizer_config.json").read_text())
    del settings["added_tokens_decoder"]
    write_json(folder / "tokenizer_config.json", settings)
    return folder


@pytest.mark.parametrize("version", ["4.53.3", "5.0.0", "5.23.0"])
def test_own_code_runs_only_where_asked_for(own_code: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("transformers.__version__", version)
    with pytest.raises(ValueError, match=r"needs the code in its repository; .* set trust_remote_code to true"):
        load_denoiser(str(own_code))
    with pytest.raises(ValueError, match=rf"own code loads wrong weights or none under transformers {version}"):
        load_denoiser(str(own_code), trust_remote_code=True)


@pytest.mark.parametrize("revision", [None, "main", "abc123"])
def test_own_code_from_the_hub_needs_a_commit(
    own_code: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: str(own_code))
    with pytest.raises(ValueError, match=r"revision is .* only from a full commit hash of 40 hex digits"):
        load_denoiser("someone/model", trust_remote_code=True, revision=revision)


def test_own_code_is_loaded_checked_and_masked(own_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.57.6")
    denoiser = load_denoiser(str(own_code), trust_remote_code=True)
    assert isinstance(denoiser, MaskedLMDenoiser)
    assert type(denoiser.model).__name__ == "OwnModel"
    assert (denoiser.block_length, denoiser.absolute_blocks, denoiser.end_ids) == (8, True, (257, 261))
    tokens = torch.arange(20).unsqueeze(0)
    changed = tokens.clone()
    changed[:, 16:] = 99
    present = torch.ones_like(tokens, dtype=torch.bool)
    before, after = (denoiser.logits(t, present, 18) for t in (tokens, changed))
    assert torch.equal(before[:, :14], after[:, :14])
    # Position 8 sees the whole of its block, so it is not causal.
    changed = tokens.clone()
    changed[:, 15] = 99
    assert not torch.equal(before[:, 6], denoiser.logits(changed, present, 18)[:, 6])


# Memory.


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self.known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def test_llada_8b_at_sixteen_rows() -> None:
    config = LlamaConfig(
        vocab_size=126464, hidden_size=4096, intermediate_size=12288, num_hidden_layers=32, num_attention_heads=32
    )
    # 8.02 billion: two tables of 126464 x 4096, and 32 layers of 4 D D + 3 D I + 2 D, and the last norm.
    layer = 4 * 4096**2 + 3 * 4096 * 12288 + 2 * 4096
    assert count_parameters(config) == 2 * 126464 * 4096 + 32 * layer + 4096 == 8_015_581_184
    parts = step_memory(config, batch=16, prompt=200, length=256, dtype=torch.bfloat16)
    assert parts["weights"] == 2 * 8_015_581_184
    assert parts["logits"] == 16 * 256 * 126464 * 2
    assert parts["layer"] == 16 * 456 * (4 * 4096 + 3 * 12288) * 2
    assert 17.0e9 < parts["peak"] < 18.0e9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "vocabulary", "biggest"), [(2048, 64, "layer"), (64, 3000, "logits")], ids=["layer", "head"]
)
def test_a_step_takes_what_was_computed(inner: int, vocabulary: int, biggest: str) -> None:
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": inner}
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=256, attn_implementation="sdpa", **sizes)
    model = LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, 64, (4, 96))
    gc.collect()
    with torch.inference_mode(), Live() as live:
        seen = torch.ones(4, 1, 1, 96, dtype=torch.bool)
        hidden = model.base_model(input_ids=tokens, attention_mask=seen).last_hidden_state[:, -64:]
        read_beliefs(model.lm_head(hidden), 1, (2,))
    parts = step_memory(config, batch=4, prompt=32, length=64, dtype=torch.float32)
    assert parts[biggest] == max(parts["layer"], parts["logits"])
    # What the log-sum-exp holds inside is not seen here; inputs, rotary tables and masks are not in the computation.
    unseen = parts["beliefs"] // 2 if biggest == "logits" else 0
    assert live.most == pytest.approx(parts["peak"] - parts["weights"] - unseen, rel=0.1)


def test_llada_8b_at_sixteen_rows_with_a_cache() -> None:
    config = LlamaConfig(
        vocab_size=126464, hidden_size=4096, intermediate_size=12288, num_hidden_layers=32, num_attention_heads=32
    )
    plain, cached = (
        step_memory(config, 16, 200, 256, torch.bfloat16, device="cuda", cache=c) for c in ("none", "dual")
    )
    # Keys and values of 32 layers, 16 rows, 456 positions and one for padding, 4096 wide, two bytes each.
    assert cached["kept"] == 32 * 2 * 16 * 457 * 4096 * 2 == 3_833_593_856
    assert plain["kept"] == 0
    # The documentation says them.
    assert (round(plain["peak"] / 1e9, 1), round(cached["peak"] / 1e9, 1)) == (17.4, 21.2)
    with pytest.raises(ValueError, match="cache is 'duel'"):
        step_memory(config, 1, 1, 1, torch.bfloat16, cache="duel")


@pytest.mark.parametrize(("layers", "inner", "groups"), [(8, 64, 1), (6, 64, 2), (2, 2048, 1)])
@pytest.mark.parametrize("computed", ["all", "some"])
def test_a_step_with_a_cache_takes_what_was_computed(layers: int, inner: int, groups: int, computed: str) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4 // groups,
        intermediate_size=inner,
        max_position_embeddings=256,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, 64, (8, 96))
    everything = torch.arange(96).expand(8, -1)
    parts = step_memory(config, batch=8, prompt=32, length=64, dtype=torch.float32, cache="dual")
    gc.collect()
    with torch.inference_mode(), Live() as live:
        kept = KeyValues(8)
        seen = torch.ones(8, 1, 1, 96, dtype=torch.bool)
        kept.place(torch.arange(8), everything, 96)
        model.base_model(input_ids=tokens, attention_mask=seen, position_ids=everything, past_key_values=kept)
        assert sum(held.nbytes for held in (*kept.keys, *kept.values)) == parts["kept"]
        if computed == "some":
            # Rows that have ended are left out, so the others' keys and values are gathered.
            live.most = live.now
            kept.place(torch.arange(7), everything[:7], 96)
            options = {"attention_mask": seen[:7], "position_ids": everything[:7], "past_key_values": kept}
            model.base_model(input_ids=tokens[:7], **options)
    room = parts["peak"] - parts["weights"]
    assert 0.87 * room < live.most < 1.03 * room


# Files of configs/models.


@pytest.mark.parametrize("file", MODEL_FILES, ids=lambda file: file.stem)
def test_a_model_file_sets_up_every_command(file: Path) -> None:
    written = yaml.safe_load(file.read_text())
    checkpoint, decoding = written["model"], written["decoding"]
    evaluate = parse(EvaluateConfig, None, ["--config", str(file), "--seed", "3"])
    assert (evaluate.buffer_length, evaluate.seed) == (decoding["buffer_length"], 3)
    blocks = [decoding[name] for name in ("block_length",) if name in decoding]
    assert evaluate.block_length == blocks
    ppo = parse(TrainPPOConfig, "ppo.yaml", [f"--config={file}", "--env.alpha", "4"])
    assert (ppo.env.alpha, ppo.env.block_lengths) == (4, blocks)
    grpo = parse(TrainGRPOConfig, "grpo.yaml", [f"--config={file}"])
    assert (grpo.env.buffer_length, grpo.env.block_lengths) == (decoding["buffer_length"], blocks)
    watch = parse(WatchConfig, None, [f"--config={file}"])
    assert (watch.buffer_length, watch.block_length) == (decoding["buffer_length"], decoding.get("block_length"))
    learn2pd = parse(Learn2PDConfig, None, [f"--config={file}"])
    assert learn2pd.buffer_length == decoding["buffer_length"]
    assert learn2pd.block_lengths == blocks or not blocks
    assert learn2pd.published_block in learn2pd.block_lengths
    expected = ModelConfig(**checkpoint)
    assert all(config.model == expected for config in (evaluate, ppo, grpo, watch, learn2pd))


@pytest.mark.parametrize("file", MODEL_FILES, ids=lambda file: file.stem)
def test_a_model_file_agrees_with_the_family(file: Path) -> None:
    written = yaml.safe_load(file.read_text())
    published, decoding = written["published"], written["decoding"]
    family = FAMILIES[published.get("family", "masked_lm")]
    types = [*family.model_types, None]
    assert find_family({"model_type": types[0]}, written["model"]["name"]) == family
    assert written["sources"]
    assert published.get("logit_shift", 0) == family.logit_shift
    assert published.get("mask_id") not in (*published.get("end_ids", []), published.get("pad_id", -1))
    if family.block_length is not None:
        assert published["block_length"] == family.block_length
        assert family.block_length % decoding["block_length"] == 0


def test_every_family_has_a_model_file() -> None:
    named = {yaml.safe_load(file.read_text())["published"].get("family", "masked_lm") for file in MODEL_FILES}
    assert named == set(FAMILIES)


def test_a_model_file_in_the_wrong_place(tmp_path: Path) -> None:
    file = str(CONFIGS / "models" / "llada.yaml")
    with pytest.raises(
        ValueError, match=r"llada.yaml describes a dLLM, but this command has no section model for it: leave it out"
    ):
        parse(PretrainConfig, None, ["--config", file])
    (tmp_path / "odd.yaml").write_text("model: {name: tiny}\npublished: {}\nreward: {}\n")
    with pytest.raises(
        ValueError, match=r"odd.yaml, line 3: there is no section reward: a model file has model, decoding"
    ):
        parse(EvaluateConfig, None, ["--config", str(tmp_path / "odd.yaml")])


# End to end.


@pytest.mark.parametrize(("name", "block"), [("llada", 8), ("dream", None), ("sdar", 4)])
def test_a_policy_is_measured_on_it(tmp_path: Path, name: str, block: int | None) -> None:
    denoiser = load_denoiser(str(build(name, tmp_path / name)))
    outcomes = measure(
        denoiser, make_rule("low_confidence:4"), tasks="sort", episodes=3, buffer_length=16, block_length=block
    )
    # Random weights know nothing, but they decode: four positions a forward, fewer at the end of a block or text.
    assert len(outcomes["score"]) == 3
    assert all(1 <= nfe <= 16 for nfe in outcomes["nfe"])
