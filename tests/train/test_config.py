from __future__ import annotations

import re
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from reproduce import ReproduceConfig

from envs.tasks import SUITES
from policies import NetworkConfig
from policies.networks.dit import DiTConfig
from train.algorithms.ppo import PPOSection
from train.command.config import CONFIGS, ROOT, parse, to_plain, to_yaml
from train.command.config_help import help_text
from train.command.config_values import ConfigError
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.compare import CompareConfig
from train.evaluation.run import EvaluateConfig
from train.export import ExportConfig
from train.job.config import EnvConfig
from train.job.grpo_config import TrainGRPOConfig
from train.job.ppo_config import TrainPPOConfig
from train.learn2pd import Learn2PDConfig
from train.model_card import CardConfig
from train.ppo import algorithm
from train.pretraining.config import PretrainConfig
from train.sweep import SweepConfig
from train.watching.show import WatchConfig

ENTRY_POINTS: dict[str, type[Any]] = {
    "ppo": TrainPPOConfig,
    "grpo": TrainGRPOConfig,
    "paper": TrainGRPOConfig,
    "evaluate": EvaluateConfig,
    "learn2pd": Learn2PDConfig,
    "pretrain": PretrainConfig,
    "watch": WatchConfig,
}


def entry_point(file: Path) -> str:
    """The first word of the file's name, or of its folder's: ppo.yaml, ppo_blocks.yaml, ppo/blocks.yaml."""
    return file.relative_to(CONFIGS).parts[0].removesuffix(".yaml").split("_")[0]


FILES = [file for file in sorted(CONFIGS.rglob("*.yaml")) if entry_point(file) in ENTRY_POINTS]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_file_parses_and_says_what_it_says(file: Path) -> None:
    config = to_plain(parse(ENTRY_POINTS[entry_point(file)], None, ["--config", str(file)]))

    def check(written: dict[str, Any], read: dict[str, Any]) -> None:
        for key, value in written.items():
            if isinstance(value, dict):
                check(value, read[key])
            else:
                assert read[key] == value, key

    check(yaml.safe_load(file.read_text()) or {}, config)


def test_the_main_jobs_file_is_among_them() -> None:
    assert CONFIGS / "ppo.yaml" in FILES


def write(folder: Path, text: str) -> str:
    (folder / "given.yaml").write_text(text)
    return str(folder / "given.yaml")


@pytest.mark.parametrize("flags_first", [False, True])
def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags_first: bool) -> None:
    monkeypatch.setattr("train.command.config.CONFIGS", tmp_path)
    (tmp_path / "base.yaml").write_text("seed: 1\ntotal_timesteps: 11\nenv: {alpha: 1.5, num_envs: 3}\n")
    given = ["--config", write(tmp_path, "total_timesteps: 22\nseed: 2\nenv: {num_envs: 4}\nppo: {n_steps: 9}\n")]
    flags = ["--seed", "3", "--ppo.n_steps", "10"]
    config = parse(TrainPPOConfig, "base.yaml", flags + given if flags_first else given + flags)
    assert config.seed == 3
    assert config.ppo.n_steps == 10
    assert config.total_timesteps == 22
    assert config.env.num_envs == 4
    assert config.env.alpha == 1.5
    assert config.ppo.n_epochs == PPOSection().n_epochs


def test_numbers_with_exponents_are_numbers(tmp_path: Path) -> None:
    config = parse(TrainPPOConfig, None, ["--config", write(tmp_path, "ppo: {learning_rate: 1e-3}\n")])
    assert config.ppo.learning_rate == 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sed: 1\n", "sed"),
        ("ppo: {nsteps: 4}\n", "nsteps"),
        ("policy: {width: 3}\n", "width"),
        ("seed: one\n", "seed"),
        ("env: {alpha: fast}\n", "alpha"),
        ("wandb: {mode: sometimes}\n", "mode"),
    ],
)
def test_unknown_keys_and_wrong_types_in_a_file_are_errors(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"given.yaml, line 1: .*{named}"):
        parse(TrainPPOConfig, None, ["--config", write(tmp_path, text)])


@pytest.mark.slow
@pytest.mark.parametrize("config_class", list(ENTRY_POINTS.values()))
def test_unknown_flags_are_errors(config_class: type[Any]) -> None:
    with pytest.raises(ConfigError, match=r"there is no flag --sede: did you mean --seed\?"):
        parse(config_class, None, ["--sede", "1"])


def test_a_configuration_survives_its_own_yaml(tmp_path: Path) -> None:
    config = TrainPPOConfig(
        out=tmp_path / "run",
        seed=7,
        policy=NetworkConfig(features=("margin", "changed"), threshold=0.75),
        ppo=PPOSection(learning_rate=3e-5, target_kl=0.02),
    )
    assert parse(TrainPPOConfig, "ppo.yaml", ["--config", write(tmp_path, to_yaml(config))]) == config
    resumed = parse(TrainPPOConfig, None, ["--config", write(tmp_path, to_yaml(config)), "--resume"])
    assert resumed == replace(config, resume=True)


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(TrainPPOConfig, "ppo.yaml", ["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for sentence in ("Weight of speed in the reward", "Environment steps, summed over the rows", "Width D"):
        assert sentence in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--policy", "threshold:0", "--policy=random:1"], ["threshold:0", "random:1"]),
        (["--policy", '["threshold:0", "random:1"]'], ["threshold:0", "random:1"]),
        (["--policy=[threshold:0, random:1]"], ["threshold:0", "random:1"]),
        (["--policy=random:1", "--policy=[threshold:0]"], ["threshold:0"]),
        (["--policy=[threshold:0]", "--policy=random:1"], ["threshold:0", "random:1"]),
        (["--policy", "runs/2024"], ["runs/2024"]),
        (["--policy", "2024"], ["2024"]),  # a folder's name
    ],
)
def test_lists_are_written_whole_or_item_by_item(words: list[str], expected: list[str]) -> None:
    assert parse(EvaluateConfig, None, words).policy == expected


def test_lists_of_nested_and_number_fields() -> None:
    words = ["--evaluation.block_lengths", "32", "--seed=2", "--evaluation.block_lengths=16", "--env.tasks", "copy"]
    config = parse(TrainPPOConfig, None, [*words, "--policy.features", "[margin, entropy]", "--wandb.tags=1e5"])
    assert config.evaluation.block_lengths == [32, 16]
    assert (config.seed, config.env.tasks) == (2, ["copy"])
    assert config.policy.features == ("margin", "entropy")
    assert config.wandb.tags == ["1e5"]


@pytest.mark.parametrize(
    "words", [["--publish"], ["--publish", "--out", "x"], ["--publish", "true"], ["--publish=true"]]
)
def test_a_flag_that_is_true_needs_no_value(words: list[str]) -> None:
    config = parse(ReproduceConfig, None, words)
    assert (config.publish, config.quick) == (True, False)


def test_flags_with_hyphens_and_nested_ones_are_switches_too() -> None:
    config = parse(TrainPPOConfig, None, ["--dry-run", "--model.trust_remote_code", "--policy.has_dial", "false"])
    assert (config.dry_run, config.model.trust_remote_code, config.policy.has_dial) == (True, True, False)


# What is written reads back.

TEXTS = [
    *("1e5", "77950e8", "1_000", "0x10", "010", "0b1", "1:30", ".5", "nan", ".inf", "-1", "2026-11-25"),
    *("yes", "No", "on", "true", "null", "~", "Null", "", "[a", "{a", "a: b", "a #b", "# a", "'a", '"a', "- a"),
    *(" a", "a ", "a\nb", "a\tb", "!a", "&a", "*a", "%a", "@a", "`a", "|", ">", "=", "<<", "?", "---", "..."),
    *("é", "模型 v1", "🙂", "\u2028", "\x07", "a" * 200, "a " * 100),
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_whatever_it_looks_like(tmp_path: Path, text: str) -> None:
    words = [f"--wandb.name={text}", f"--wandb.tag={text}", f"--env.tasks={text}"] if not text.startswith("[") else []
    config = parse(TrainPPOConfig, None, [*words, f"--wandb.group={text}"])
    expected = None if text == "null" else text
    assert config.wandb.group == expected
    if words:
        assert (config.wandb.name, config.wandb.tags, config.env.tasks) == (expected, [text], [text])
    again = parse(TrainPPOConfig, None, ["--config", write(tmp_path, to_yaml(config)), "--resume"])
    assert again == replace(config, resume=True)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text())
def test_any_text_survives(text: str) -> None:
    config = EvaluateConfig(policy=[text], wandb=WandbConfig(name=text, tags=[text]))
    with tempfile.TemporaryDirectory() as folder:
        assert parse(EvaluateConfig, None, ["--config", write(Path(folder), to_yaml(config))]) == config


@pytest.mark.parametrize(
    ("written", "expected"),
    [("1e5", "1e5"), ("0x10", "0x10"), ("3", "3"), ("yes", "yes"), ("2026-11-25", "2026-11-25"), ("null", None)],
)
def test_a_file_may_give_numbers_as_text(tmp_path: Path, written: str, expected: str | None) -> None:
    file = write(tmp_path, f"wandb: {{name: {written}}}\nmodel: {{revision: {written}, name: a/b}}\n")
    config = parse(EvaluateConfig, None, ["--config", file])
    assert (config.wandb.name, config.model.revision) == (expected, expected)
    assert parse(EvaluateConfig, None, ["--config", write(tmp_path, f"policy: [{written}]\n")]).policy == [written]


def test_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = write(tmp_path, "out: ~/runs/x\nmodel: ~/m\nfilter: {folder: ~/f}\nwandb: {name: ~/n}\n")
    config = parse(TrainPPOConfig, None, ["--config", file])
    assert (config.out, config.model.name) == (tmp_path / "runs/x", f"{tmp_path}/m")
    assert (config.filter.folder, config.wandb.name) == (f"{tmp_path}/f", "~/n")
    assert parse(EvaluateConfig, None, ["--policy=~/p@0.9"]).policy == [f"{tmp_path}/p@0.9"]
    assert parse(TrainPPOConfig, None, ["--config", "~/given.yaml"]) == config


# What is wrong is said in one line.

WRONG = [
    ("env:\n\talpha: 3\n", "given.yaml, line 2, column 1: this is no YAML"),
    ("alpha: [1", "given.yaml, line 1, column 10: this is no YAML"),
    ("seed: !!python/tuple [1]", "given.yaml, line 1: seed has the tag"),
    ("seed: 1\nseed: 2", "given.yaml, line 2: seed is given twice"),
    ("[a, b]", "it holds a list, but a configuration is lines of name: value"),
    ("just text", "it holds 'just text'"),
    ("--- {}\n--- {}", "this is no YAML"),
    ("env: 3", "env is '3': it is a section"),
    ("env: {alhpa: 3}", "there is no field env.alhpa: did you mean env.alpha?"),
    ("alpha: 3", "there is no field alpha: did you mean env.alpha?"),
    ("grpo: {group_size: 8}", "grpo is a section of train/grpo.py: run that with it instead"),
    ("seed:\n", "seed is empty: it must be a whole number"),
    ("seed: {a: 1}", "seed is a mapping: it must be a whole number"),
    ("env: {tasks: copy}", "env.tasks is 'copy': it must be a list, each item text"),
    ("env: {tasks: [[copy]]}", "env.tasks[0] is a list: it must be text"),
    ("env: {block_lengths: [32, x]}", "env.block_lengths[1] is 'x': it must be a whole number"),
    ("ppo: {gamma: .nan}", "ppo.gamma is '.nan': it must be a number"),
    ("out:", "out is empty: it must be a path"),
    ("resume: maybe", "resume is 'maybe': it must be true or false"),
    ("filter: {role: strat}", "filter.role is 'strat': it must be one of start, feature, both (did you mean start?)"),
    ("wandb: {mode: of}", "wandb.mode is 'of': it must be one of offline, online, disabled or null"),
    ("\n\nppo:\n  gamma: 5\n", "given.yaml, line 4: ppo.gamma is 5.0: it must be 0 to 1"),
    ("? [a]\n: 1", "there is no field a list"),
    ("seed: *x", "this is no YAML"),
    ("&a [*a]", "it holds a list"),
    ("a: " + "[" * 1000, "nested too deeply"),
    ('a: "\\UFFFFFFFF"', "this is no YAML"),
    (
        'seed: 1\nenv: {tasks: ["\\uD83D"]}',
        "line 2, column 15: it holds '\\\\ud83d', which is half a character",
    ),
    ('"\\uDE00": 1', "line 1, column 1: it holds '\\\\ude00', which is half a character of UTF-16"),
    ("\x00", "this is no YAML"),
    ("seed: " + "9" * 5000, "it must be a whole number"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text[:20] for text, _ in WRONG])
def test_a_wrong_file_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(TrainPPOConfig, None, ["--config", write(tmp_path, text)])
    said = str(caught.value)
    assert message in said
    assert "given.yaml" in said
    assert "\n" not in said
    assert len(said) < 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env.tasks", "[copy"], "--env.tasks, line 1, column 6: this is no YAML"),
        (["--seed", "x"], "seed is 'x': it must be a whole number"),
        (["--seed"], "--seed has no value"),
        (["--seed", "--resume"], "--seed has no value"),
        (["copy"], "'copy' stands alone"),
        (["--env.tasks", "copy", "add"], "'add' stands alone: every value follows a flag, as in --seed 3; for a list,"),
        (["--polcy", "x"], "did you mean --policy.hidden_size?"),
        (["--alpha", "4"], "did you mean --env.alpha?"),
        (["--grpo.group_size", "4"], "there is no flag --grpo.group_size: it is one of train/grpo.py"),
        (["--device", "cuda"], "did you mean --model.device?"),
        (["--zzzz"], "there is no flag --zzzz: --help lists them all"),
        (["--dit", "3"], "dit is '3': it is a section"),
        (["--dit", "null", "--dit.bias", "1"], "dit is null, but dit.bias is given"),
        (["--config", "nowhere.yaml"], "config is 'nowhere.yaml', which is not there"),
        (["--config", "."], "config is '.', which is a folder"),
        (["--config", "/dev/null"], "config is '/dev/null', which is no file of text"),
        (
            ["--env.tasks", '["\\udE00"]'],
            "--env.tasks, line 1, column 2: it holds '\\\\ude00', which is half",
        ),
        (["--config", "configs/models/lada.yaml"], "did you mean configs/models/llada.yaml?"),
        (["--wandb.name", "\udcff"], r"the command line holds '\\udcff': it must be UTF-8"),
        (["--env.task_weights", "copy=1", "--env.task_weights", "copy=2"], "holds 'copy=1': copy has two weights"),
        (["--model.device", "gpu"], "model.device is 'gpu': torch knows no such device"),
        (["--model.dtype", "float64"], "model.dtype is 'float64': choose float32, bfloat16 or float16"),
        (["--model.family", "dreem"], "model.family is 'dreem': did you mean dream?"),
        (["--env.reward", "aditive"], "did you mean additive?"),
        (["--policy.features", "margn"], "did you mean margin?"),
        (["--evaluation.rules", "thresold:0.9"], "did you mean threshold?"),
        (["--evaluation.rules", "klass:0.9,histry=2"], "did you mean history?"),
        (["--env.num_envs", "1e30"], "env.num_envs is '1e30': it must be between -2^63 and 2^63"),
    ],
)
def test_a_wrong_command_line_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(TrainPPOConfig, None, words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


SCRAPS = st.sampled_from(
    [
        *(
            "env",
            "seed",
            "out",
            "ppo",
            "dit",
            "model",
            "tasks",
            "null",
            "true",
            "1",
            "-1",
            "1e999",
            "x",
            "~",
            "''",
            '"',
        ),
        *(": ", "\n", "  ", "\t", "[", "]", "{", "}", ",", "- ", "? ", "&a ", "*a", "!!str ", "!!python/x ", "<<", "|"),
        *("%YAML 1.1\n", "---\n", "...\n", "#", "\x00", "\ufeff", "\x85", "é", "\\x", "decoding", "published"),
    ]
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.lists(SCRAPS, max_size=14).map("".join), st.text(max_size=40)))
def test_no_file_ends_in_anything_but_a_sentence(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.yaml"
        file.write_bytes(text.encode(errors="surrogatepass"))
        for words in (["--config", str(file)], [f"--env.tasks={text}"], [f"--dit={text}"], [f"--seed={text}"], [text]):
            said = ""
            try:
                parse(TrainPPOConfig, None, words)
            except ConfigError as error:
                said = str(error)
            assert "\n" not in said


# Values that are not possible, field by field.

IMPOSSIBLE = {
    TrainPPOConfig: {
        "seed": [-1, 2**40],
        "total_timesteps": [0, -5],
        "checkpoint_every": [0],
        "env.num_envs": [0, -1],
        "env.problems": [0],
        "env.task_weights": ["copy=-1", "copy=x", "cop=1", "copy=nan"],
        "filter.problems": [0],
        "filter.threshold": [0, 1],
        "filter.steepness": [0, -1],
        "filter.false_commit_weight": [0],
        "filter.reference": ["thresold:0.9"],
        "env.buffer_length": [0],
        "env.block_lengths": [0, -4, 7],
        "env.temperature": [-1],
        "env.alpha": [-1],
        "env.alpha_range": ["[1]", "[2, 1]", "[0, 1]", "[-1, 1]"],
        "policy.hidden_size": [0, 3],
        "policy.num_heads": [0, 5],
        "policy.feedforward_size": [0],
        "policy.threshold": [0, 1],
        "policy.slope": [0, -1],
        "dit.hidden_size": [0],
        "dit.num_blocks": [0],
        "dit.time_size": [0],
        "dit.time_period": [0],
        "dit.num_probabilities": [0, 51],
        "dit.hidden_state_size": [-2],
        "actions.temperature": [0, -1],
        "evaluation.episodes": [0],
        "evaluation.calibration_episodes": [0],
        "evaluation.decision_thresholds": ["[]", "[0]", "[1]", "[0.5, 0.5]"],
        "evaluation.block_lengths": [0, 7],
        "evaluation.rules": ["threshold:-1", "threshold:1.7", "low_confidence:0"],
        "model.threads": [0],
        "model.name": [""],
        "model.device": ["cpu:7", "gpu"],
        "policy.features": ["[margin, entropy, margin]"],
        "ppo.learning_rate": [0, -1],
        "ppo.n_steps": [0],
        "ppo.batch_size": [0, 1],
        "ppo.n_epochs": [0],
        "ppo.gamma": [-0.1, 5],
        "ppo.gae_lambda": [-0.1, 1.1],
        "ppo.clip_range": [0, -1],
        "ppo.ent_coef": [-1],
        "ppo.vf_coef": [-1],
        "ppo.max_grad_norm": [0, -1],
        "ppo.target_kl": [0, -1],
    },
    TrainGRPOConfig: {
        "grpo.group_size": [0, 1, 7],
        "grpo.n_epochs": [0],
        "grpo.learning_rate": [0],
        "grpo.warmup": [-0.1, 1],
        "grpo.weight_decay": [-1],
        "grpo.betas": ["[0.9, 1]", "[-1, 0.9]", "[0.9]"],
        "grpo.clip_range": [0],
        "grpo.ent_coef": [-1],
        "grpo.max_grad_norm": [0],
        "grpo.max_redraws": [-1],
        "grpo.chunk_size": [0],
        "experts.block_length": [0],
    },
    EvaluateConfig: {
        "episodes": [0],
        "first": [-1],
        "buffer_length": [0],
        "block_length": [0, 7],
        "temperature": [-1],
        "batch_size": [0],
        "workers": [0],
        "seed": [-1],
    },
    Learn2PDConfig: {
        "seed": [-1],
        "problems": [0],
        "published_block": [16],
        "false_commit_weight": [0],
        "learning_rate": [0],
        "batch_size": [0],
        "epochs": [0],
        "patience": [0],
        "thresholds": [0, 1],
        "episodes": [0],
        "workers": [0],
    },
    PretrainConfig: {
        "seed": [-1],
        "steps": [0],
        "batch_size": [0],
        "group_size": [0],
        "inner_size": [0],
        "suite": ["prse"],
        "hidden_size": [0, 130],
        "num_layers": [0],
        "learning_rate": [0],
        "weight_decay": [-1],
        "warmup": [-0.1, 1.1],
        "decay": [-0.1, 1.1],
        "buffer_lengths": ["[]", "[[-1, 1]]", "[[33, 0.5]]", "[[33, 0.5], [64, x]]"],
        "max_positions": [0],
        "threads": [0],
        "save_every": [0],
    },
    WatchConfig: {"problems": [0], "first": [-1], "heatmap_problems": [-1], "block_length": [0, 7], "seed": [-1]},
    SweepConfig: {"trials": [0], "seed": [-1], "buffer_length": [0], "block_lengths": [0]},
    ExportConfig: {"time_period": [0, -1]},
    CompareConfig: {"reference_accuracy": [-0.1, 1], "rules": ["treshold"]},
    CardConfig: {"episodes": [0], "threads": [0]},
    ReproduceConfig: {"workers": [0], "only": ["main_jb"]},
}


@pytest.mark.parametrize(
    ("config_class", "name", "value"),
    [(one, name, value) for one, names in IMPOSSIBLE.items() for name, values in names.items() for value in values],
)
def test_impossible_values_are_named(config_class: type[Any], name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(config_class, None, [f"--{name}={value}"])
    # A rule that is not possible is named itself.
    named = (
        str(value).partition(":")[0] if name in ("evaluation.rules", "filter.reference") else name.rpartition(".")[2]
    )
    assert named.rstrip("s") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--filter.reference=threshold:2", "filter.reference is 'threshold:2': threshold's threshold is 2.0: "),
        ("--evaluation.rules=thresold:0.9", "evaluation.rules hold 'thresold:0.9': no rule of that name; did you mean"),
        ("--env.block_lengths=128", "env.block_lengths: block_length is 128: it must divide buffer_length 64"),
        ("--evaluation.block_lengths=7", "evaluation.block_lengths: block_length is 7: it must divide"),
        ("--policy.features=[margin, margin]", "policy.features hold 'margin' twice"),
        ("--model.device=cpu:7", "model.device is 'cpu:7': all of a machine's CPUs are one device"),
        ("--help=1", "there is no flag --help: write --help alone, without a value"),
    ],
)
def test_what_is_wrong_is_named_as_it_was_given(flag: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(TrainPPOConfig, None, [flag])
    assert str(caught.value).startswith(message)


def test_a_files_weights_of_other_tasks_count_for_none() -> None:
    """A configuration's weights may be of more tasks than a command line then chooses."""
    assert EnvConfig(tasks=["copy"], task_weights=["sort=2"]).weights_of(["copy"]) == [1.0]


def test_only_what_takes_a_dllm_is_said_to_take_its_file() -> None:
    files = "or one of configs/models"
    assert files in " ".join(help_text(TrainPPOConfig, TrainPPOConfig()).split())
    assert files not in " ".join(help_text(CardConfig, CardConfig("x")).split())
    with pytest.raises(ConfigError, match=r"tiny\.yaml describes a dLLM, but this command has no section model for it"):
        parse(CardConfig, None, ["--config", "configs/models/tiny.yaml"])


# What is given is used.


@pytest.mark.parametrize(
    ("config_class", "words", "message"),
    [
        (
            TrainPPOConfig,
            "--policy.hidden_size 64 --dit.hidden_size 32",
            "policy.hidden_size is given, but not used: dit",
        ),
        (TrainPPOConfig, "--filter.role start", "filter.role is given, but not used: filter.folder is null"),
        (TrainPPOConfig, "--filter.steepness 3", "filter.steepness is given, but not used: filter.folder is null"),
        (
            TrainPPOConfig,
            "--filter.folder x --filter.role feature --filter.threshold 0.9",
            "filter.threshold is given, but not used: filter.role is feature",
        ),
        (TrainPPOConfig, "--policy.dial_rise 3", "policy.dial_rise is given, but not used: env.alpha_range is empty"),
        (TrainPPOConfig, "--filter.problems 9", "filter.problems is given, but not used: no filter is learned"),
        (TrainPPOConfig, "--filter.folder x --policy.hidden_size 64", "policy.hidden_size is given, but not used"),
        (TrainPPOConfig, "--env.alpha 3 --env.alpha_range [1,2]", "env.alpha is given, but not used"),
        (TrainPPOConfig, "--evaluation.calibration_episodes 3", "no dial to calibrate"),
        (TrainPPOConfig, "--policy.has_dial", "policy.has_dial is given, but not used"),
        (TrainPPOConfig, "--policy.bias 1", "policy.bias is given, but not used: policy.init is threshold"),
        (TrainPPOConfig, "--policy.init random --policy.slope 2", "policy.slope is given, but not used"),
        (TrainPPOConfig, "--actions.stop_logit 1", "actions.stop_logit is given, but not used"),
        (TrainPPOConfig, "--dit.reads_time false --dit.time_size 8", "dit.time_size is given, but not used"),
        (
            TrainPPOConfig,
            "--env.window truncated",
            "env.window is given, but not used: env.block_lengths is empty, which is full diffusion; give",
        ),
        (WatchConfig, "--block_origin absolute", "block_origin is given, but not used: block_length is null"),
        (EvaluateConfig, "--blocks_ahead 1", "blocks_ahead is given, but not used: block_length is empty"),
        (TrainPPOConfig, "--model.revision abc", "model.revision is given, but not used"),
        (TrainGRPOConfig, "--grpo.max_redraws 3", "grpo.max_redraws is given, but not used"),
        (TrainGRPOConfig, "--experts.block_length 16", "experts.block_length is given, but not used"),
        (WatchConfig, "--format ansi --out x", "out is given, but not used: format is ansi"),
        (WatchConfig, "--format gif --heatmap_problems 3", "heatmap_problems is given, but not used"),
        (PretrainConfig, "--objective causal --buffer_lengths [[33,1]]", "buffer_lengths is given, but not used"),
    ],
)
def test_what_plays_no_role_is_refused(config_class: type[Any], words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(config_class, None, words.split())


def test_two_ways_to_write_a_cache_are_one_setting() -> None:
    assert parse(TrainPPOConfig, None, ["--env.cache", "dual:refresh=0"]).env.cache == "dual"
    assert parse(EvaluateConfig, None, ["--cache", "dual:refresh=0,fresh_prompt=2"]).cache == "dual:fresh_prompt=2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env.cache", "duel"], "env.cache is 'duel': did you mean dual"),
        (
            ["--env.blocks_ahead", "1", "--env.block_lengths", "[16]", "--env.window", "truncated"],
            "env.blocks_ahead is 1 and window truncated",
        ),
    ],
)
def test_what_is_wrong_with_decoding_is_said_by_the_flags_name(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        parse(TrainPPOConfig, None, words)


def test_a_filter_that_is_but_read_has_a_threshold_where_it_learns_from_its_own_states() -> None:
    words = ["--filter.learn", "true", "--filter.role", "feature", "--filter.threshold", "0.7"]
    assert parse(TrainPPOConfig, None, [*words, "--filter.rounds", "2"]).filter.threshold == 0.7
    with pytest.raises(ConfigError, match=r"threshold is given, but not used: filter.role is feature"):
        parse(TrainPPOConfig, None, words)
    with pytest.raises(ConfigError, match=r"steepness is given, but not used: filter.role is feature"):
        parse(TrainPPOConfig, None, [*words[:4], "--filter.rounds", "2", "--filter.steepness", "3"])


def test_what_equals_the_default_may_be_given(tmp_path: Path) -> None:
    config = parse(TrainPPOConfig, "ppo.yaml", ["--dit", "{}", "--filter.learn=false", "--policy.hidden_size", "32"])
    again = parse(TrainPPOConfig, "ppo.yaml", ["--config", write(tmp_path, to_yaml(config))])
    assert again == config
    # A killed run goes on with the configuration that it has, whatever the defaults are now.
    assert parse(TrainPPOConfig, None, ["--config", write(tmp_path, to_yaml(config)), "--resume"]).dit == config.dit


@pytest.mark.parametrize("suite", SUITES)
def test_any_task_has_a_weight(suite: str) -> None:
    names = list(SUITES[suite])
    given = [f"{name}={i}" for i, name in enumerate(names)]
    config = parse(TrainPPOConfig, None, [f"--env.tasks=[{suite}]", f"--env.task_weights=[{','.join(given)}]"])
    assert config.env.weights_of(names) == list(range(len(names)))


def test_a_flag_replaces_what_a_file_says_of_its_section(tmp_path: Path) -> None:
    words = ["--config", write(tmp_path, "filter: {learn: true, problems: 9}\n")]
    assert parse(TrainPPOConfig, "ppo.yaml", [*words, "--filter.folder", "x"]).filter.folder == "x"
    # What the flags say themselves is to play a role, and so is what a file says of other sections.
    for more in (["--filter.folder", "x", "--filter.problems", "9"], ["--filter.learn", "false", "--policy.bias", "1"]):
        with pytest.raises(ConfigError, match="is given, but not used"):
            parse(TrainPPOConfig, "ppo.yaml", [*words, *more])
    with pytest.raises(ConfigError, match=r"given.yaml, line 1: filter.problems is given, but not used"):
        parse(TrainPPOConfig, None, ["--config", write(tmp_path, "filter: {problems: 9}\n"), "--seed", "1"])


def test_a_section_in_short_and_whole(tmp_path: Path) -> None:
    for words in (["--model", "a/b"], ["--model={name: a/b}"], ["--config", write(tmp_path, "model: a/b\n")]):
        assert parse(EvaluateConfig, None, words).model == ModelConfig("a/b")
    assert parse(TrainPPOConfig, None, ["--dit={hidden_size: 32}", "--dit.bias", "1"]).dit == DiTConfig(32, bias=1.0)
    assert parse(TrainPPOConfig, None, ["--config", write(tmp_path, "dit: {bias: 1}\n"), "--dit=null"]).dit is None
    assert parse(TrainPPOConfig, None, ["--config", write(tmp_path, "env:\nppo:\n")]).env == EnvConfig()


def test_more_transitions_than_an_update_has() -> None:
    config = parse(TrainPPOConfig, "ppo.yaml", ["--ppo.batch_size", "999999"])
    with pytest.raises(ValueError, match=r"ppo.batch_size is 999999: an update has 1024 transitions"):
        algorithm(config)
    with pytest.raises(ValueError, match="an update has 1 transitions"):
        algorithm(parse(TrainPPOConfig, "ppo.yaml", ["--env.num_envs", "1", "--ppo.n_steps", "1"]))


def test_defaults_that_are_missing_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.command.config.CONFIGS", tmp_path)
    with pytest.raises(ConfigError, match=r"ppo.yaml is missing, which holds this command's defaults"):
        parse(TrainPPOConfig, "ppo.yaml", [])


def test_files_that_ship_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse(EvaluateConfig, None, ["--config", "configs/models/llada.yaml"])
    assert config.model.name == "GSAI-ML/LLaDA-8B-Instruct"


def test_every_folder_of_configs_is_in_the_wheel() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        tool = tomllib.load(file)["tool"]["setuptools"]
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in CONFIGS.rglob("*.yaml")}
    assert folders <= set(tool["packages"])
    assert all("*.yaml" in tool["package-data"][folder] for folder in folders)
