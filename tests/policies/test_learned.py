from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folder_edits import edit
from networks import ALL_FEATURES, outputs, perturbed
from safetensors.torch import load_file, save_file
from torch import Tensor
from views import make_view, random_view, take

from envs import UnmaskingVectorEnv
from envs.observation import observe
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, load, save
from policies.distributions import ForcedBernoulli
from policies.networks.kinds import NetworkSpec

CONFIG = NetworkConfig(hidden_size=16, num_heads=4, feedforward_size=24, features=("margin", "changed"))
TRAINED = {"tasks": ["copy"], "seed": 3, "versions": {"torch": "2"}}


def made(decision: Any = "deterministic") -> LearnedPolicy:
    return LearnedPolicy(perturbed(CONFIG), decision, TRAINED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(made(), tmp_path / "deep" / "policy", "# A card\n")


@pytest.mark.parametrize("decision", ["sample", "deterministic"])
def test_round_trip(tmp_path: Path, decision: str) -> None:
    policy = made(decision)
    again = load(save(policy, tmp_path / "policy"))
    view = random_view(32, 8)
    assert torch.equal(outputs(again.network, view), outputs(policy.network, view))
    assert torch.equal(again.select(view), policy.select(view))
    assert (again.network.config, again.decision, again.trained) == (CONFIG, decision, TRAINED)
    assert again.features == {"margin", "changed"}
    other: Any = {"sample": "deterministic", "deterministic": "sample"}[decision]
    assert load(tmp_path / "policy", other).decision == other


def test_numbers_are_read_back(tmp_path: Path) -> None:
    again = load(save(made().changed(speed=1, beta=2), tmp_path / "policy"))
    assert (again.speed, again.beta) == (1.0, 2.0)


def test_the_folder_holds_three_files_and_no_pickle(folder: Path) -> None:
    save(made(), folder, "# A newer card\n")
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert (folder / "README.md").read_text() == "# A newer card\n"
    data = (folder / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert set(header) - {"__metadata__"} == set(made().network.state_dict())
    assert json.loads((folder / "config.json").read_text())["format_version"] == 1


def cut(name: str, share: float) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(share * len(data))])

    return damage


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (cut("model.safetensors", 0.5), "model.safetensors"),
        (cut("model.safetensors", 0), "model.safetensors"),
        (write("model.safetensors", b"\x80\x04junk" * 20), "model.safetensors"),
        (cut("config.json", 0.5), "config.json"),
        (cut("config.json", 0), "config.json"),
        (write("config.json", b"\xff\xfe\x00"), "config.json"),
        (write("config.json", b"[1, 2]"), "config.json"),
        (edit(format_version=2), "config.json.*format_version is 2"),
        (edit(format_version=...), "config.json.*format_version"),
        (edit(network_depth=2), "config.json.*depth"),
        (edit(network=...), "config.json.*network"),
        (edit(trained=...), "config.json.*trained"),
        (edit(trained=3), "config.json"),
        (edit(decision="guess"), "guess"),
        (edit(actions=...), "config.json.*actions"),
        (edit(actions=None), "config.json"),
        (edit(actions={"colour": 1}), "config.json.*colour"),
        (edit(beta=...), "config.json.*beta"),
        (edit(beta="2"), "config.json.*beta is '2': it must be a valid number"),
        (edit(network_hidden_size=17), "config.json.*17"),
        (edit(network_hidden_size=None), "config.json"),
        (edit(network_feedforward_size="24"), "config.json"),
        (edit(network_features=["loudness"]), "config.json.*loudness"),
        (edit(network_features=["margin"]), "model.safetensors"),
        (edit(network_hidden_size=32), "model.safetensors"),
    ],
)
def test_damaged_folders_are_refused(folder: Path, damage: Callable[[Path], object], named: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=f"(?s){named}"):
        load(folder)


POINT = {
    "block_length": 8,
    "speed": 0.5,
    "accuracy": 0.9,
    "accuracy_ci95": [0.8, 1.0],
    "nfe": 2.0,
    "nfe_ci95": [1.5, 2.5],
}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (edit(network_slope="x"), "network.slope is 'x': it must be a valid number"),
        (edit(network_slope=math.nan), "it holds NaN: every number in it must be finite"),
        (edit(network_bias=-1e308), "network.bias is -1e+308: it must be greater than or equal to -1e+30"),
        (edit(network_has_dial="yes"), "network.has_dial is 'yes': it must be a valid boolean"),
        (edit(network_hidden_size=True), "network.hidden_size is True: it must be a valid integer"),
        (edit(network_hidden_size=2**40), f"network.hidden_size is {2**40}: it must be less than or equal to {2**20}"),
        (edit(network_features="margin"), "network.features is 'margin': it must be a valid tuple"),
        (edit(network_features=[3]), "network.features.0 is 3: it must be a valid string"),
        (edit(network_depth=2), "'network.depth' is no field that is known"),
        (edit(calibration={}), "calibration is {}: it must be a valid list"),
        (edit(calibration=[]), "calibration is []: list should have at least 1 item after validation, not 0"),
        (edit(calibration=[None]), "calibration.0 is None: it must be a valid dictionary"),
        (edit(calibration=[POINT, POINT | {"nfe": None}]), "calibration.1.nfe is None: it must be a valid number"),
        (edit(calibration=[POINT | {"nfe": 0}]), "calibration.0.nfe is 0: it must be greater than 0"),
        (
            edit(calibration=[POINT | {"accuracy": 7}]),
            "calibration.0.accuracy is 7: it must be less than or equal to 1",
        ),
        (
            edit(calibration=[POINT | {"block_length": 0}]),
            "calibration.0.block_length is 0: it must be greater than or equal to 1",
        ),
        (edit(calibration=[{"speed": 1}]), "calibration.0 has no 'block_length'"),
        (edit(kind="block_filter", network={"block_length": 0}), "network: block_length is 0: it must be 1 or more"),
        (edit(kind="perceptron"), "kind is 'perceptron': choose one of transformer, dit, block_filter"),
        (edit(filter=3), "filter is 3: it must be a valid dictionary"),
        (edit(filter={"kind": "dit"}), "filter has no 'network'"),
        (
            edit(filter={"kind": "dit", "network": {"bias": "x"}}),
            "filter.network.bias is 'x': it must be a valid number",
        ),
        (edit(threshold=1), "threshold is 1: it must be less than 1"),
        (edit(speed=1e9), "speed is 1000000000.0: it must be less than or equal to 1"),
        (edit(actions={"temperature": "1"}), "actions.temperature is '1': it must be a valid number"),
        (edit(beta=1e40), "beta is 1e+40: it must be less than or equal to 1e+30"),
        (edit(trained={"block_lengths": "x"}), "trained.block_lengths is 'x': it must be a valid list"),
        (edit(trained={"block_lengths": [8, 0]}), "trained.block_lengths.1 is 0: it must be greater than or equal"),
        (edit(trained={"dllm": {"mask_id": "x"}}), "trained.dllm.mask_id is 'x': it must be a valid integer"),
        (edit(architectures=5, format_version=None), "format_version is None, this release reads 1"),
        (edit(trained={"a": "x" * 2**20}), "it is larger than 1048576 bytes, the most that is read"),
        (write("config.json", b"[" * 100_000), "it is nested too deeply"),
        (
            write("config.json", b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"),
            "it is nested more than 32 levels deep",
        ),
        (write("config.json", b'{"a": "\\ud800\\n"}'), "which is no text: half a character of UTF-16"),
    ],
)
def test_a_bad_field_is_one_sentence(folder: Path, damage: Callable[[Path], object], sentence: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        load(folder)
    assert str(caught.value).startswith(f"policy file {folder / 'config.json'} is damaged: ")
    assert "\n" not in str(caught.value)


def test_filters_in_filters_are_bounded() -> None:
    description: dict[str, Any] = NetworkSpec.of(UnmaskingNetwork(NetworkConfig())).as_dict()
    for _ in range(7):
        description = {**description, "filter": description}
    assert len(list(NetworkSpec.read(description).parts())) == 8
    with pytest.raises(ValueError, match="more than 8 networks"):
        NetworkSpec.read({**description, "filter": description})


def weigh(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return damage


def put(name: str, value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights[name].view(-1)[3].fill_(value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("condition.weight", math.nan), "condition.weight holds NaN or infinite values"),
        (put("output.weight", -math.inf), "output.weight holds NaN or infinite values"),
        (lambda weights: weights.update({"output.bias": weights["output.bias"].int()}), "output.bias is of dtype I32"),
        (
            lambda weights: weights.update({"output.bias": weights["output.bias"].bool()}),
            "output.bias is of dtype BOOL",
        ),
        (lambda weights: weights.update({"output.bias": torch.zeros(2)}), "output.bias has shape (2,): by its config"),
        (lambda weights: weights.update({"other": torch.zeros(2)}), "it has a tensor 'other'"),
        (lambda weights: weights.pop("output.bias"), "it has no tensor output.bias"),
        (
            lambda weights: weights.update({"output.bias": torch.full((1,), 1e300, dtype=torch.float64)}),
            "output.bias holds NaN or",
        ),
    ],
)
def test_weights_of_another_network_are_refused(folder: Path, change: Any, sentence: str) -> None:
    weigh(change)(folder)
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        load(folder)
    assert str(caught.value).startswith(f"policy file {folder / 'model.safetensors'} is damaged or of another arch")


def test_weights_of_fewer_bits_are_read(folder: Path) -> None:
    weigh(lambda weights: weights.update({name: values.bfloat16() for name, values in weights.items()}))(folder)
    found = load(folder).network.state_dict()
    assert all(torch.equal(found[name], own.bfloat16().float()) for name, own in made().network.state_dict().items())


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "transformer", "network": {"hidden_size": 20_000}},
        {"kind": "dit", "network": {"hidden_size": 20_000}},
        {"kind": "dit", "network": {"num_blocks": 1_000_000}},
        {"kind": "block_filter", "network": {"hidden_size": 2**20, "block_length": 2**20}},
    ],
)
def test_sizes_are_refused_before_memory_is_taken(folder: Path, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one tensor is made that holds memory."""
    edit(**network)(folder)

    def take(self: torch.nn.Module) -> None:
        assert self.weight.is_meta  # type: ignore[union-attr]

    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", take)
    with pytest.raises(
        ValueError, match=r"model\.safetensors is damaged or of another architecture: (it has .*tensor|.* has shape)"
    ):
        load(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_policy_that_is_not_finite_is_not_saved(tmp_path: Path, value: float) -> None:
    policy = made()
    next(policy.network.parameters()).data[0] = value
    with pytest.raises(ValueError, match=r"policy is not saved to .*input\.weight holds NaN or infinite values"):
        save(policy, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_loading_draws_no_more_random_numbers_than_before(folder: Path) -> None:
    """A network's weights are drawn once, as by `build`, so seeded results stay what they were."""
    description = NetworkSpec.of(made().network).as_dict()
    torch.manual_seed(0)
    NetworkSpec.read(description).build()
    expected = torch.rand(1)
    torch.manual_seed(0)
    load(folder)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"(?s){folder.name}.*{name}"):
        load(folder)


def test_unknown_decision_is_refused() -> None:
    with pytest.raises(ValueError, match="decision is 'guess'"):
        made("guess")


@pytest.mark.slow
def test_using_a_policy_imports_no_trainer(folder: Path) -> None:
    program = f"""
import sys
import policies
from envs import DecodingSettings
from envs.models.toy import ToyDenoiser
policy = policies.load({str(folder)!r})
settings = DecodingSettings(8, 8, features=policy.features)
[done] = policies.decode(ToyDenoiser(), ["copy . . : a b c . . . . . . . . . . . . . ="], policy, settings)
assert policies.generate and done.text == "a b c", done
print([name for name in ("stable_baselines3", "wandb", "train") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("decision", ["sample", "deterministic"])
def test_choices_repeat_alone_and_in_any_batch(decision: str) -> None:
    policy, view = made(decision), random_view(48, 8)
    chosen = policy.select(view)
    assert torch.equal(policy.select(view), chosen)
    assert not (chosen & ~view.eligible).any()
    assert torch.equal(chosen.any(1), view.eligible.any(1))
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    assert torch.equal(policy.select(take(view, order)), chosen[order])
    for row in range(48):
        assert torch.equal(policy.select(take(view, [row]))[0], chosen[row])


def test_the_deterministic_decision_is_the_mode_of_what_ppo_trains() -> None:
    policy, view = made(), random_view(200, 8)
    view = take(view, view.eligible.any(1).nonzero().squeeze(1))
    assert torch.equal(policy.select(view), ForcedBernoulli(outputs(policy.network, view), view.eligible).mode())


@pytest.mark.parametrize("bias", [-1.5, 0.3])
def test_sampled_decisions_have_the_true_frequencies(bias: float) -> None:
    rows, p = 8000, 1 / (1 + math.exp(-bias))
    policy = LearnedPolicy(UnmaskingNetwork(NetworkConfig(init="random", bias=bias)), "sample")
    chosen = policy.select(make_view([[0.5, 0.5, 0.5]] * rows, ["xx."] * rows))
    forced = (1 - p) ** 2  # the first of equals
    expected = torch.tensor([p + forced, p, 0.0])
    torch.testing.assert_close(chosen.float().mean(0), expected, atol=4 * math.sqrt(0.25 / rows), rtol=0)
    both = chosen[:, :2].all(1).float().mean().item()
    assert both == pytest.approx(p * p, abs=4 * math.sqrt(0.25 / rows))
    later = policy.select(make_view([[0.5, 0.5, 0.5]] * rows, ["xx."] * rows, step=2))
    assert not torch.equal(later, chosen)


def test_inputs_are_the_envs_observations() -> None:
    env = UnmaskingVectorEnv(6, denoiser="toy", tasks=["copy"], buffer_length=8, block_length=4, features=ALL_FEATURES)
    obs, _ = env.reset(seed=0)
    for _ in range(3):
        inputs = env.view.inputs()
        assert inputs.keys() == obs.keys()
        for name, values in inputs.items():
            torch.testing.assert_close(values.float(), torch.from_numpy(obs[name]), rtol=0, atol=1e-6)
            assert values.shape == obs[name].shape
        obs, *_ = env.step(env.action_space.sample())
    assert observe(env.view).keys() == obs.keys()


def test_a_probability_that_equals_the_threshold_commits() -> None:
    """The threshold is the least probability that commits: the network says exactly a half of everything."""
    network = UnmaskingNetwork(NetworkConfig(init="random", bias=0.0))
    view = make_view([[0.5, 0.5, 0.5]], ["xx."])
    assert outputs(network, view).tolist() == [[0.0, 0.0, 0.0]]
    assert LearnedPolicy(network, threshold=0.5).select(view).tolist() == [[True, True, False]]
    assert LearnedPolicy(network, threshold=0.5001).select(view).sum() == 1  # the forced one


def test_a_policy_whose_weights_are_too_large_is_not_asked_twice() -> None:
    network = perturbed(NetworkConfig(), 0.2)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(3e38)
    with pytest.raises(ValueError, match="log-odds are NaN: its weights are damaged, or too large for float32"):
        LearnedPolicy(network).act(random_view(2, 8))
