from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import erf

from envs import UnmaskingVectorEnv
from policies import LearnedPolicy, load, save
from policies.base import Decision
from policies.distributions import ActionConfig
from policies.formats.ml_rl_dllm import write_checkpoint
from policies.networks.dit import DiTConfig, DiTNetwork, embed_time
from policies.networks.kinds import NetworkSpec
from train.command.errors import UserError
from train.export import ExportConfig
from train.export import main as export

# The tensors of a published checkpoint of arXiv 2512.09106's code, as its file's header names them.
SHAPES = {
    "time_mlp.0.weight": (128, 128),
    "time_mlp.0.bias": (128,),
    "time_mlp.2.weight": (128, 128),
    "time_mlp.2.bias": (128,),
    "confidence_proj.weight": (128, 1),
    "confidence_proj.bias": (128,),
    "mask_embedding.weight": (2, 128),
    "transformer_blocks.0.inv_freq": (32,),
    **{f"transformer_blocks.0.{name}_proj.weight": (128, 128) for name in ("q", "k", "v", "out")},
    **{f"transformer_blocks.0.{name}_proj.bias": (128,) for name in ("q", "k", "v", "out")},
    "transformer_blocks.0.linear1.weight": (512, 128),
    "transformer_blocks.0.linear1.bias": (512,),
    "transformer_blocks.0.linear2.weight": (128, 512),
    "transformer_blocks.0.linear2.bias": (128,),
    "transformer_blocks.0.ada_conditioning.weight": (768, 128),
    "transformer_blocks.0.ada_conditioning.bias": (768,),
    **{f"transformer_blocks.0.norm{i}.{kind}": (128,) for i in (1, 2) for kind in ("weight", "bias")},
    "final_norm.weight": (128,),
    "final_norm.bias": (128,),
    "output_proj.weight": (1, 128),
    "output_proj.bias": (1,),
}

THEIRS = {"architectures": ["PolicyHFWrapper"], "model_type": "policy", "torch_dtype": "float32"}


def random_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    weights |= {name: values + 1 for name, values in weights.items() if "norm" in name and name.endswith("weight")}
    weights["transformer_blocks.0.inv_freq"] = 1 / 10000 ** (torch.arange(0, 64, 2).float() / 64)
    return weights


def checkpoint(folder: Path, weights: dict[str, torch.Tensor] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights() if weights is None else weights
    save_file({f"base_policy.{name}": values for name, values in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(THEIRS))
    return folder


def inputs(rows: int = 3, length: int = 24) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "top_probability": torch.rand(rows, length, generator=generator),
        "masked": (torch.rand(rows, length, generator=generator) < 0.5).float(),
        "time": torch.rand(rows, 1, generator=generator),
    }


def by_hand(weights: dict[str, torch.Tensor], probability: Any, masked: Any, time: float) -> Any:
    """The paper's network for one row, in float64, one head and one position after another."""
    w = {name.replace("transformer_blocks.0.", ""): values.double().numpy() for name, values in weights.items()}

    def linear(name: str, x: Any) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def rounded(value: float) -> float:
        return float(torch.tensor(value).to(torch.bfloat16))

    embedding = np.array([rounded(math.cos(time))] * 64 + [rounded(math.sin(time))] * 64)
    gate = linear("time_mlp.0", embedding)
    time_part = linear("time_mlp.2", gate / (1 + np.exp(-gate)))
    condition = w["mask_embedding.weight"][masked.astype(int)] + time_part
    g1, b1, a1, g2, b2, a2 = np.split(linear("ada_conditioning", condition), 6, axis=-1)
    x = linear("confidence_proj", probability[:, None])
    h = norm("norm1", x) * (1 + g1) + b1
    q, k, v = (linear(f"{name}_proj", h).reshape(-1, 2, 64) for name in "qkv")
    mixed = np.zeros_like(v)
    length = len(x)

    def turn(vector: Any, position: int) -> Any:
        turned = np.empty_like(vector)
        for i, frequency in enumerate(w["inv_freq"]):
            c, s = math.cos(position * frequency), math.sin(position * frequency)
            turned[2 * i] = vector[2 * i] * c - vector[2 * i + 1] * s
            turned[2 * i + 1] = vector[2 * i] * s + vector[2 * i + 1] * c
        return turned

    for head in range(2):
        queries = [turn(q[i, head], i) for i in range(length)]
        keys = np.stack([turn(k[i, head], i) for i in range(length)])
        for i in range(length):
            scores = keys @ queries[i] / 8
            scores = np.exp(scores - scores.max())
            mixed[i, head] = scores / scores.sum() @ v[:, head]
    x = x + (1 + a1) * linear("out_proj", mixed.reshape(length, 128))
    h = linear("linear1", norm("norm2", x) * (1 + g2) + b2)
    x = x + (1 + a2) * linear("linear2", h * (1 + erf(h / math.sqrt(2))) / 2)
    return linear("output_proj", norm("final_norm", x))[:, 0]


def test_tensors_are_those_of_the_released_checkpoints() -> None:
    network = DiTNetwork(DiTConfig())
    assert {name: tuple(values.shape) for name, values in network.state_dict().items()} == SHAPES
    assert len(SHAPES) == 30
    assert sum(parameter.numel() for parameter in network.parameters()) == 331_265


def test_a_released_checkpoint_gives_the_papers_logits(tmp_path: Path) -> None:
    policy = load(checkpoint(tmp_path))
    assert policy.decision == "sample"
    given = inputs()
    logits = policy.network(given)
    for row in range(3):
        probability, masked = given["top_probability"][row].numpy(), given["masked"][row].numpy()
        truth = by_hand(random_weights(), probability, masked, given["time"][row].item())
        np.testing.assert_allclose(logits[row].numpy(), truth, atol=1e-4)  # float32 against float64
    assert logits.std() > 0.5


def test_checkpoints_survive_both_ways(tmp_path: Path) -> None:
    policy = load(checkpoint(tmp_path / "theirs"))
    again = load(save(policy, tmp_path / "ours"))
    back = write_checkpoint(again, tmp_path / "back")
    weights = load_file(back / "model.safetensors")
    assert {name: tuple(v.shape) for name, v in weights.items()} == {f"base_policy.{n}": s for n, s in SHAPES.items()}
    assert all(torch.equal(weights[f"base_policy.{name}"], values) for name, values in random_weights().items())
    assert json.loads((back / "config.json").read_text())["architectures"] == ["PolicyHFWrapper"]
    assert torch.equal(load(back).network(inputs()), policy.network(inputs()))


def test_the_architecture_is_read_off_the_shapes(tmp_path: Path) -> None:
    config = DiTConfig(hidden_size=32, num_heads=4, feedforward_size=48, num_blocks=2, time_size=16, time_period=50.0)
    policy = LearnedPolicy(DiTNetwork(config))
    write_checkpoint(policy, tmp_path)
    again = load(tmp_path).network
    assert again.config == config
    small = {k: torch.cat([v[:, :8]] * 3, 1) for k, v in inputs().items() if k != "time"} | {"time": inputs()["time"]}
    assert torch.equal(again(small), policy.network(small))


def test_foreign_and_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    weights = random_weights()
    several = {**weights, "confidence_proj.weight": torch.zeros(128, 51)}
    with pytest.raises(ValueError, match="reads the best 51 probabilities, but policies here read 50 at mos") as caught:
        load(checkpoint(tmp_path / "top_p", several))
    assert "is damaged" not in str(caught.value)  # their code takes it
    hidden = {name: values for name, values in weights.items() if not name.startswith("confidence_proj")}
    with pytest.raises(ValueError, match=r"base_policy\.confidence_proj\.weight"):
        load(checkpoint(tmp_path / "hidden", hidden))
    folder = checkpoint(tmp_path / "cut")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        load(folder)
    with pytest.raises(ValueError, match="dit section"):
        write_checkpoint(load("tiny"), tmp_path / "out")


def test_smart_init_starts_as_one_coin_for_all() -> None:
    torch.manual_seed(0)
    probability = DiTNetwork(DiTConfig(bias=-2.0))(inputs()).sigmoid()
    assert 0.05 < probability.min() < probability.max() < 0.3
    network, given = DiTNetwork(DiTConfig()), inputs()
    later = {**given, "masked": 1 - given["masked"], "time": given["time"] / 2}
    assert torch.equal(network(given), network(later))  # mask and time count for nothing at first


def test_one_frequency_in_bfloat16() -> None:
    embedded = embed_time(torch.tensor([[0.3]]), 8, 1.0)
    assert embedded.tolist() == [[float(torch.tensor(f(0.3)).bfloat16()) for f in [math.cos] * 4 + [math.sin] * 4]]
    spread = embed_time(torch.tensor([[0.3]]), 4, 100.0)[0]
    expected = torch.tensor([math.cos(0.3), math.cos(0.03), math.sin(0.3), math.sin(0.03)]).bfloat16().float()
    torch.testing.assert_close(spread, expected, atol=1e-3, rtol=0)


def test_description_round_trip() -> None:
    network = DiTNetwork(DiTConfig(hidden_size=16, feedforward_size=8))
    again = NetworkSpec.of(network).build()
    assert isinstance(again, DiTNetwork)
    assert again.config == network.config


def test_the_reading_holds_for_committed_positions_and_the_mask_token_too() -> None:
    env = UnmaskingVectorEnv(4, denoiser="tiny", tasks=["shuffle"], features=["top_probability"])
    env.reset(seed=0)
    action = env.view.confidence > 0.9
    obs, *_ = env.step(action.numpy())
    masked, probability, confidence = (torch.from_numpy(obs[n]) for n in ("masked", "top_probability", "confidence"))
    running = masked.any(1, keepdim=True)
    known = (masked == 0) & running
    assert known.any()
    assert (probability[known] > 0.2).all()
    assert (probability[known] < 1).any()  # the confidence is 1 there
    open_ = masked > 0.5
    # Without the mask token the same top token has at least as large a share.
    assert (confidence[open_] >= probability[open_] - 1e-6).all()


# The command.


def test_export_converts_both_ways(tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "theirs")
    ours = export(ExportConfig(str(theirs), tmp_path / "ours", "folder", time_period=10.0))
    policy = load(ours)
    assert isinstance(policy.network, DiTNetwork)
    assert policy.network.config.time_period == 10.0
    back = export(ExportConfig(str(ours), tmp_path / "back", "ml_rl_dllm"))
    assert torch.equal(load(back).network(inputs()), policy.network(inputs()))
    with pytest.raises(UserError, match="not empty"):
        export(ExportConfig(str(ours), tmp_path / "back", "ml_rl_dllm"))
    with pytest.raises(ValueError, match="dit section"):
        export(ExportConfig("tiny", tmp_path / "none", "ml_rl_dllm"))


def everything(policy: LearnedPolicy) -> tuple[Any, ...]:
    assert isinstance(policy.network, DiTNetwork)
    settings = (policy.decision, policy.threshold, policy.speed, policy.beta, policy.actions, policy.trained)
    return (policy.network.config, *settings)


@pytest.mark.parametrize("decision", ["sample", "deterministic"])
@pytest.mark.parametrize(
    "actions",
    [
        ActionConfig(),
        ActionConfig("bernoulli", temperature=0.5),
        ActionConfig("plackett_luce", temperature=1 / 3, stop_logit=-1.7),
    ],
    ids=lambda actions: actions.distribution,
)
def test_whatever_a_policy_holds_survives_export_and_import(
    tmp_path: Path, decision: Decision, actions: ActionConfig
) -> None:
    config = DiTConfig(hidden_size=16, num_heads=2, feedforward_size=24, num_blocks=2, time_size=7)
    config = replace(config, time_period=math.pi * 1e-7, num_probabilities=3, bias=-1 / 3)
    policy = LearnedPolicy(DiTNetwork(config), decision, {"steps": 3}, threshold=0.7, actions=actions)
    theirs = export(ExportConfig(str(save(policy, tmp_path / "ours")), tmp_path / "theirs", "ml_rl_dllm"))
    back = load(export(ExportConfig(str(theirs), tmp_path / "back", "folder")))
    assert everything(back) == everything(load(theirs)) == everything(policy)
    weights, expected = back.network.state_dict(), policy.network.state_dict()
    assert all(torch.equal(weights[name], values) for name, values in expected.items())


def test_what_would_be_lost_is_refused(tmp_path: Path) -> None:
    policy = LearnedPolicy(DiTNetwork(DiTConfig(hidden_size=16, feedforward_size=8)), "sample", beta=0.7)
    with pytest.raises(ValueError, match=r"beta 0\.7: ml-rl-dllm has no field for that, so it would be lost"):
        write_checkpoint(policy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy_full_context: false", "policy_full_context False: such a policy sees one block alone"),
        ("sampling_mode: argmax", "sampling_mode 'argmax': choose one of bernoulli, bernoulli-argmax, dpls"),
        ("sampling_mode: [1]", r"sampling_mode \[1\]"),
        ("policy_type: dit_hidden", "policy_type 'dit_hidden': only dit_confidence is read"),
        ("policy_time_period: soon", "policy_time_period 'soon': it must be a number"),
        ("policy_time_period: .nan", "policy_time_period nan: it must be a number"),
        ("policy_smart_init: 1.0e+308", r"policy_smart_init 1e\+308: it must be a number, 1e\+30 at most"),
        ("temperature_policy: 0", "temperature of the policy is 0"),
        ("a: [", "policy.yaml is damaged: it is no YAML"),
        ("- 1", r"it holds a list, \[1\], where names and values should be"),
        ("[" * 1000, "policy.yaml is damaged: it is no YAML"),
        ("a: " + "[" * 40 + "]" * 40, "nested more than 32 levels deep"),
        ("a: 0x" + "f" * 1000, "a whole number of 4000 bits"),
        ("1: 2", "a field 1: a field's name must be a text"),
        (
            "\n".join(["a: &a0 [1]", *[f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]]),
            "100000 entries",
        ),
    ],
)
def test_a_policy_yaml_that_says_what_can_not_be(tmp_path: Path, text: str, message: str) -> None:
    folder = checkpoint(tmp_path / "theirs")
    (folder / "policy.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (5, "unmasking_policies is 5: it must be a valid dictionary"),
        ({"threshold": 1.5}, "unmasking_policies.threshold is 1.5: it must be less than 1"),
        ({"decision": "guess"}, "unmasking_policies.decision is 'guess': it must be 'sample' or 'deterministic'"),
        ({"trained": {"block_lengths": 8}}, "trained.block_lengths is 8: it must be a valid list"),
        ({"colour": 1}, "'unmasking_policies.colour' is no field that is known"),
    ],
)
def test_what_was_left_for_the_way_back_is_checked(tmp_path: Path, own: Any, message: str) -> None:
    folder = checkpoint(tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "unmasking_policies": own}))
    with pytest.raises(ValueError, match=rf"config\.json is damaged: {message}"):
        load(folder)


def test_a_policy_that_is_not_finite_is_not_exported(tmp_path: Path) -> None:
    policy = load(checkpoint(tmp_path / "theirs"))
    next(policy.network.parameters()).data[0] = math.inf
    with pytest.raises(ValueError, match="holds NaN or infinite values"):
        write_checkpoint(policy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fields_of_their_yaml(tmp_path: Path) -> None:
    """A whole YAML of theirs may lie there; numbers come as YAML reads them, 1e-3 as a text."""
    folder = checkpoint(tmp_path / "theirs")
    fields = (
        "learning_rate: 3e-5\nsampling_mode: dpls\ndpls_stop_logit: 1e-3\npolicy_time_period: 10\ntemperature: 0.5\n"
    )
    (folder / "policy.yaml").write_text(fields)
    policy = load(folder)
    assert policy.actions == ActionConfig("plackett_luce", 1.0, 0.001)
    assert isinstance(policy.network, DiTNetwork)
    assert policy.network.config.time_period == 10


def test_an_odd_time_embedding_ends_in_a_zero() -> None:
    time = torch.tensor([[0.3]])
    even = embed_time(time, 6, 10.0)
    assert torch.equal(embed_time(time, 7, 10.0), torch.cat([even, torch.zeros(1, 1)], 1))
