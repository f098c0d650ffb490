"""Policies on the hub, against a stand-in for its client, and what a policy says of the dLLM that it is for."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import places
import pytest
import torch
import yaml
from networks import perturbed

from envs.decoding.settings import DecodingSettings
from envs.denoiser import identify
from envs.models.load import load_denoiser
from envs.models.toy import ToyDenoiser
from policies import LearnedPolicy, NetworkConfig, decode, load, save
from policies.card import card_of
from train.command.config import parse
from train.evaluate import main as evaluate
from train.evaluation.run import EvaluateConfig
from train.export import ExportConfig
from train.export import main as export
from train.generate import GenerateConfig
from train.generate import main as generate

RECORD: dict[str, Any] = {
    "policy": "learned@speed=0.5",
    "decision": "deterministic",
    "task": "all",
    "block_length": 16,
    "accuracy": 0.875,
    "accuracy_ci95": [0.8, 0.93],
    "nfe": 2.5,
    "nfe_ci95": [2.25, 2.75],
    "episodes": 900,
}


@dataclass
class Hub:
    """Repositories as folders, behind the functions of huggingface_hub that are called."""

    root: Path
    calls: list[Any] = field(default_factory=list)

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        self.calls.append(("create", repo_id, private))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str, allow_patterns: list[str]) -> None:
        self.calls.append(("upload", commit_message))
        for pattern in allow_patterns:
            for file in Path(folder_path).glob(pattern):
                shutil.copy(file, self.root / repo_id / file.name)

    def snapshot_download(self, name: str, revision: str | None, allow_patterns: list[str]) -> str:
        self.calls.append(("fetch", name, revision))
        if not (self.root / name).is_dir():
            raise OSError(f"404: no repository {name}\nand more lines")
        return str(self.root / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")

    class HfApi:  # a class, because others name it in their types
        def __new__(cls, token: str | None = None) -> Any:
            made.calls.append(("token", token))
            return made

    monkeypatch.setattr("huggingface_hub.HfApi", HfApi)
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
    return made


def policy_of(**trained: Any) -> LearnedPolicy:
    about = {"model": "GSAI-ML/LLaDA-8B-Instruct", "buffer_length": 32, "window": "truncated", "tasks": ["gsm8k"]}
    return LearnedPolicy(perturbed(NetworkConfig(hidden_size=16)), trained={**about, **trained}, threshold=0.7)


def test_what_is_pushed_is_what_is_loaded(hub: Hub) -> None:
    policy = policy_of()
    address = policy.push_to_hub("user/my-policy", license="mit", evaluation=[RECORD], private=True, token="t")
    assert address == "https://huggingface.co/user/my-policy"
    assert hub.calls == [("token", "t"), ("create", "user/my-policy", True), ("upload", "Upload an unmasking policy")]
    back = load("user/my-policy", revision="abc")
    assert hub.calls[-1] == ("fetch", "user/my-policy", "abc")
    assert (back.threshold, back.trained) == (policy.threshold, policy.trained)
    weights = back.network.state_dict()
    assert all(torch.equal(weights[name], values) for name, values in policy.network.state_dict().items())


def test_the_card_says_what_the_policy_is_for(hub: Hub) -> None:
    policy_of().push_to_hub("user/my-policy", license="apache-2.0", evaluation=[RECORD, {**RECORD, "task": "gsm8k"}])
    _, front, text = (hub.root / "user/my-policy/README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(front)
    assert (about["license"], about["base_model"]) == ("apache-2.0", "GSAI-ML/LLaDA-8B-Instruct")
    assert 'policies.load("user/my-policy")' in text
    for row in (
        "| buffer_length | 32 |",
        "| window | truncated |",
        "| threshold | 0.7 |",
        "| tasks | ['gsm8k'] |",
        "| learned@speed=0.5 | deterministic | 16 | 87.5 % (80.0 to 93.0) | 2.50 (2.25 to 2.75) | 900 |",
    ):
        assert text.count(row) == 1


@pytest.mark.parametrize(
    ("trained", "arguments"),
    [
        ({"buffer_length": 64, "block_lengths": [64, 16]}, ""),
        ({"buffer_length": 256, "block_lengths": [32], "window": "full"}, ", buffer_length=256, block_length=32"),
        (
            {"buffer_length": 64, "block_lengths": [4, 64], "window": "truncated", "block_origin": "absolute"},
            ", window='truncated', block_origin='absolute'",
        ),
        ({"cache": "dual:refresh=4", "blocks_ahead": 1}, ", blocks_ahead=1, cache='dual:refresh=4'"),
        ({"cache": "dual')", "window": "truncated"}, ""),
        ({"buffer_length": "x)", "block_lengths": [[]], "window": ["full"], "block_origin": "import os"}, ""),
        ({"buffer_length": [64], "block_lengths": "abc"}, ""),
    ],
)
def test_a_card_decodes_as_in_training(trained: dict[str, Any], arguments: str) -> None:
    text = card_of(LearnedPolicy(perturbed(NetworkConfig(hidden_size=16)), trained=trained))
    assert f"policies.generate(model, tokenizer, prompts, policy{arguments})\n" in text


def test_a_card_of_anything_stays_a_card() -> None:
    policy = policy_of(model="a folder | with\n---\nlines", tasks=["x|y"])
    _, front, text = card_of(policy).split("---\n", 2)
    assert "base_model" not in yaml.safe_load(front)
    assert "license" not in front
    assert "| model | a folder \\| with --- lines |" in text
    assert "evaluation.json" in text


def test_a_folder_comes_before_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(policy_of(), "user/local")
    assert load("user/local").threshold == 0.7
    assert hub.calls == []


def test_what_the_hub_does_not_give_is_named(hub: Hub) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"policy is 'no/one': .* did not give it \(404: no repository no/one\);"
    ):
        load("no/one")
    with pytest.raises(ValueError, match="name is 'nobody': give owner/repository"):
        policy_of().push_to_hub("nobody")
    assert not any(call[0] == "create" for call in hub.calls)


def test_commands_take_policies_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    policy_of().push_to_hub("user/my-policy")
    words = ["--policy", "user/my-policy", "--task", "copy", "--episodes", "2", "--workers", "1"]
    records = evaluate(parse(EvaluateConfig, None, [*words, "--buffer_length", "24", "--out", str(tmp_path / "out")]))
    assert {record["policy"] for record in records} == {"learned"}
    [answer] = generate(GenerateConfig(["sort : a ="], policy="user/my-policy"))
    assert answer.nfe


def test_export_writes_the_folder_and_pushes_it(hub: Hub, tmp_path: Path) -> None:
    source = save(policy_of(), tmp_path / "run" / "policy")
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps([RECORD]))
    words = [str(source), "--to", "hub", "--license", "mit", "--out", str(tmp_path / "out")]
    out = export(parse(ExportConfig, None, words, positional="policy"))
    assert "license: mit" in (out / "README.md").read_text()
    assert "87.5 %" in (out / "README.md").read_text()
    assert hub.calls == []
    words[-1] = str(tmp_path / "again")
    export(parse(ExportConfig, None, [*words, "--repository", "user/x"], positional="policy"))
    assert "87.5 %" in (hub.root / "user/x/README.md").read_text()


def test_a_push_that_fails_is_one_sentence_and_leaves_no_folder(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(policy_of(), tmp_path / "policy")
    config = ExportConfig(str(source), tmp_path / "out", "hub", repository="user/x")

    def refuse(self: Hub, repo_id: str, **how: Any) -> str:
        raise RuntimeError("Client error '401 Unauthorized'\nFor more information")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    with pytest.raises(ConnectionError, match=r"did not take 'user/x' \(Client error '401 Unauthorized'\): log in"):
        export(config)
    with pytest.raises(ValueError, match="name is 'x': give owner/repository"):
        export(replace(config, repository="x"))
    assert not config.out.exists()


# The dLLM that it is for.


def test_another_dllm_is_refused_unless_told_otherwise(toy: ToyDenoiser, tmp_path: Path) -> None:
    own = identify(load_denoiser("tiny"))
    assert json.loads(json.dumps(own)) == own
    folder = save(policy_of(dllm=own), tmp_path / "policy")
    policy = load(folder)
    decode(load_denoiser("tiny"), ["copy a"], policy, DecodingSettings(4))
    with pytest.raises(ValueError, match=r"trained for a dLLM with \w+ .*, but that of this one is .*set any_dllm"):
        decode(toy, ["copy a"], policy, DecodingSettings(4))
    decode(toy, ["copy a"], load(folder, device=str(places.here), any_dllm=True), DecodingSettings(4))
    # One that does not say which is for all, as policies of earlier releases are.
    decode(toy, ["copy a"], policy_of(), DecodingSettings(4))
    # What strangers wrote there is compared, and nothing else.
    decode(toy, ["copy a"], policy_of(dllm=[1, 2]), DecodingSettings(4))
    config = GenerateConfig(["copy a"], policy=str(folder), model=replace(GenerateConfig().model, name="toy"))
    with pytest.raises(ValueError, match="set any_dllm"):
        generate(config)
    generate(replace(config, any_dllm=True))
