from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz import KINDS, dllms, fuzz, policy_folders, run_folders, try_dllm, try_policy, try_run

from train.command.errors import UserError
from train.command.run_folder import open_run
from train.evaluation.evaluated import read_asked


@pytest.mark.slow
@pytest.mark.parametrize("what", KINDS)
def test_what_is_damaged_is_read_or_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    """`python tests/helpers/fuzz.py` tries thousands; that no other exception comes is what is tested."""
    number = 150
    found = fuzz(what, number, 0, tmp_path / "damaged")
    assert found.total() >= number
    assert len(found) > number // 5


def test_whole_folders_are_read(tmp_path: Path) -> None:
    for kind, files in policy_folders().items():
        assert try_policy(kind, "config.json", files["config.json"], tmp_path / "x") == "loaded"
    for kind, files in run_folders().items():
        assert try_run(kind, "evaluation.json", files["evaluation.json"], tmp_path / "x") == "read"


RATE = "metric: {name: x}\nparameters:\n  a: "

EXAMPLES = [
    ("sweeps", "sweep.yaml", f"{RATE}{{min: x, max: 1}}", "finite numbers are needed"),
    ("sweeps", "sweep.yaml", f"{RATE}{{min: 1e-4, max: 1}}", "YAML takes 1e-4 for text: write 1.0e-4"),
    ("sweeps", "sweep.yaml", f"{RATE}{{min: 0, max: 1e4}}", "YAML takes 1e4 for text: write 1.0e+4"),
    ("sweeps", "sweep.yaml", f"{RATE}{{min: .nan, max: 1}}", "finite numbers are needed"),
    ("sweeps", "sweep.yaml", f"{RATE}{{min: 0, max: .inf}}", "finite numbers are needed"),
    ("sweeps", "sweep.yaml", f"{RATE}{{distribution: int_uniform, min: 0.5, max: 1}}", "whole numbers are needed"),
    ("sweeps", "sweep.yaml", f"{RATE}{{distribution: log_uniform_values, min: 0, max: 1}}", "above 0 on a logarithmic"),
    ("sweeps", "sweep.yaml", f"{RATE}{{min: 2, max: 1}}", "min must be max or less"),
    ("sweeps", "sweep.yaml", f"{RATE}{{distribution: q_uniform, min: 0, max: 1, q: 0}}", "q must be above 0"),
    ("sweeps", "sweep.yaml", f"{RATE}{{distribution: q_uniform, min: 0, max: 1, q: 1.0e-30}}", "1,000,000,000 steps"),
    ("sweeps", "sweep.yaml", f"{RATE}{{min: -1.0e+308, max: 1.0e+308}}", "must lie between"),
    ("sweeps", "sweep.yaml", f"{RATE}{{distribution: int_uniform, min: 0, max: 1{'0' * 30}}}", "must lie between"),
    ("configurations", "config.yaml", f"model: {{family: {'x' * 1000}}}", f"model.family is '{'x' * 57}...': choose"),
    ("sweeps", "sweep.yaml", f"{RATE}{{values: 3}}", "give value, values, or min and max"),
    ("sweeps", "sweep.yaml", f"{RATE}{{values: []}}", "give value, values, or min and max"),
    ("sweeps", "sweep.yaml", "[" * 1000, "nested too deeply"),
    ("sweeps", "trials.jsonl", "[1]\n", "trial 0 is"),
    ("sweeps", "trials.jsonl", '{"number": 0, "values": {}, "result": 1.0}\n', "trial 0 has no value of 'a'"),
    ("sweeps", "sweep.yaml", 'metric: {name: x}\nparameters: {"\\x1e": null}', r"parameters.'\x1e' is None"),
    ("sweeps", "sweep.yaml", 'metric: {name: x}\nparameters: {"\\r": {values: 3}}', r"parameter '\r' is"),
    ("sweeps", "trials.jsonl", '{"number": 0, "val', "Unterminated string"),
    ("pretrainings", "state.safetensors", "", "can't be read"),
    ("pretrainings", "state.safetensors", "x" * 100, "can't be read"),
    ("data", "test.jsonl", '{"input": "a"}\n{"inp', "line 2, column"),
    ("data", "test.jsonl", '{"input": "a"}\nnull\n', "row 2 has none"),
    ("policies", "config.json", '{"speed": 0, "speed": 1}', "it holds 'speed' twice"),
    ("runs", "config.yaml", "seed: {a: 1}", "seed is"),
    ("runs", "config.yaml", "seed: 2020-01-01", "seed is"),
    ("data", "task_config.yaml", "waiting_line/test: {metric: [1], prompt: x}", "its metric in"),
    ("data", "task_config.yaml", "[" * 1000, "can't be read"),
    ("data", "test.jsonl", '{"input": ' + "[" * 900 + "]" * 900 + "}", "malformed"),
    ("data", "test.jsonl", '{"\\u001e": "\\ud800"}', "its ? has the character"),
    ("data", "task_config.yaml", '"\\r": 1', r"choose from '\r'"),
    ("dllms", "model.safetensors.index.json", "\x80" * 5000, "is damaged"),
    ("dllms", "tokenizer_config.json", '{"chat_template": "{{ nothing.at.all }}"}', "chat template"),
]
"""What once ended in another exception, or in a sentence of a thousand characters."""


@pytest.mark.parametrize(("what", "name", "text", "said"), EXAMPLES)
def test_what_was_not_refused_before(what: str, name: str, text: str, said: str, tmp_path: Path) -> None:
    folders, attempt = KINDS[what]
    kinds = [kind for kind, files in folders().items() if name in files]
    kind = "parallel_bench" if what == "data" else kinds[-1]
    assert said in attempt(kind, name, text.encode("latin-1"), tmp_path / "x")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("llada", name) for name in ("n_layers", "d_model", "mlp_hidden_size", "vocab_size", "embedding_size")]
    + [("roberta", name) for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")]
    + [("roberta", name) for name in ("type_vocab_size", "max_position_embeddings")],
)
@pytest.mark.parametrize("value", [10**9, 10**400, 1e30])
def test_a_configuration_beyond_its_weights_takes_no_memory(kind: str, name: str, value: float, tmp_path: Path) -> None:
    config = json.loads(dllms()[kind]["config.json"])
    assert name in config
    said = try_dllm(kind, "config.json", json.dumps({**config, name: value}).encode(), tmp_path / "x")
    assert f"config.json says {name} 1" in said


def test_deep_json_in_a_runs_folder(tmp_path: Path) -> None:
    config = {"out": str(tmp_path)}
    with open_run(tmp_path, config, False):
        (tmp_path / "result.txt").touch()
    for name in ("policies.json", "versions.json"):
        (tmp_path / name).write_text("[" * 100_000)  # Python 3.13 reads ten thousand
    with open_run(tmp_path, config, True):
        pass
    assert len(json.loads((tmp_path / "versions.json").read_text())["starts"]) == 1
    with pytest.raises(UserError, match=r"policies\.json' can't be read \(it is nested too deeply\)"):
        read_asked(tmp_path)
