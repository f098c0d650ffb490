"""A real third-party masked language model, run for real; without its wheel these tests are skipped."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from antibodies import TRASTUZUMAB

from envs import MaskedLMDenoiser, load_denoiser
from envs.decoding.settings import DecodingSettings
from envs.tasks.base import BLANK, Problem
from envs.tasks.benchmarks.antibody import Antibody
from policies import decode, generate, load, make_rule
from train.command.config import parse
from train.evaluation.measure import measure
from train.job.ppo_config import TrainPPOConfig
from train.ppo import train

if find_spec("sapiens") is None:
    pytest.skip("no sapiens wheel: pip install --no-deps sapiens==1.0.5", allow_module_level=True)

from envs.models.sapiens import VOCABULARY, build_model, checkpoint_file, read_checkpoint, renamed

SPECIAL = [VOCABULARY.index(token) for token in ("<s>", "<pad>", "</s>", "<unk>")]


@pytest.fixture(scope="module")
def heavy() -> MaskedLMDenoiser:
    denoiser = load_denoiser("sapiens:heavy")
    assert isinstance(denoiser, MaskedLMDenoiser)
    return denoiser


def ids(denoiser: MaskedLMDenoiser, text: str) -> torch.Tensor:
    return torch.tensor([denoiser.encode_prompt(f"<s>{text}</s>")])


# The conversion.


@pytest.mark.parametrize(("name", "positions"), [("sapiens:heavy", 144), ("sapiens:light", 128)])
def test_every_tensor_is_the_checkpoints(name: str, positions: int) -> None:
    denoiser = load_denoiser(name)
    assert isinstance(denoiser, MaskedLMDenoiser)
    own, tensors = denoiser.model.state_dict(), read_checkpoint(checkpoint_file(name))
    assert all(torch.equal(own[renamed(key)], values) for key, values in tensors.items())
    extra = {*own} - {renamed(key) for key in tensors}
    assert extra == {"roberta.embeddings.token_type_embeddings.weight", "lm_head.decoder.bias"}
    assert not own["roberta.embeddings.token_type_embeddings.weight"].any()
    assert denoiser.max_length == positions
    assert sum(parameter.numel() for parameter in denoiser.model.parameters()) == 568_985 - 128 * (144 - positions)


def test_embedding_is_the_one_its_authors_published(heavy: MaskedLMDenoiser) -> None:
    # Merck/Sapiens, notebooks/02_sapiens_antibody_embedding.ipynb: the mean of the last layer's hidden states over
    # the residues of abagovomab, from their fairseq model; its first eight values and its last four.
    chain = "QVKLQESGAELARPGASVKLSCKASGYTFTNYWMQWVKQRPGQGLDWIGAIYPGDGNTRYTHKFKGKATLTADKSSSTAYMQLSSLASEDSGV"
    chain += "YYCARGEGNYAWFAYWGQGTTVTVSS"
    published = [-0.0907480419, 0.0995291919, 0.442705452, 0.176951781, 0.117761582, -0.00194507383, 0.0234257858]
    published += [-0.350218028, -0.618127048, 0.0688555315, -3.01599360, -0.160553619]
    tokens = ids(heavy, chain)
    _, hidden = heavy.logits_and_hidden(tokens, torch.ones_like(tokens, dtype=torch.bool), tokens.shape[1])
    assert hidden.shape[-1] == heavy.hidden_size
    mean = hidden[0, 1:-1].mean(0)
    assert torch.cat([mean[:8], mean[-4:]]).tolist() == pytest.approx(published, abs=2e-6)


def test_probabilities_are_those_its_authors_published(heavy: MaskedLMDenoiser) -> None:
    # The wheel's README: probabilities of A, C, D and E at the first five positions; * is masked.
    chain = "**QLV*SGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLEWMGGINPSNGGTNFNEKFKNRVTLTTDSSTTTAYMELKSLQFDDTAV"
    chain += "YYCARRDYRFDMGFDYWGQGTTVTVSS"
    published = [
        [0.003272, 0.004147, 0.004011, 0.004590],
        [0.012038, 0.003854, 0.006803, 0.008174],
        [0.003384, 0.003895, 0.003726, 0.004068],
        [0.004612, 0.005325, 0.004443, 0.004641],
        [0.005519, 0.003664, 0.003555, 0.005269],
    ]
    with torch.inference_mode():
        logits = heavy.model(ids(heavy, chain.replace("*", "<mask>"))).logits
    assert torch.allclose(logits.softmax(-1)[0, 1:6, 4:8], torch.tensor(published), atol=1e-6)
    # And their own test of infilling: it begins with these residues.
    [done] = decode(
        heavy,
        ["<s>"],
        make_rule("low_confidence:3"),
        DecodingSettings(128),
        given=[chain.replace("*", BLANK) + "</s>"],
    )
    assert (done.text[:6], done.text[6:], done.nfe) == ("QVQLVQ", chain[6:], 1)


def test_only_residues_are_predicted(heavy: MaskedLMDenoiser) -> None:
    tokens = torch.tensor([[0, *[heavy.mask_id] * 20, 2]])
    logits = heavy.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), 21)
    assert torch.isneginf(logits[..., SPECIAL]).all()
    assert torch.isfinite(logits[..., 4:24]).all()
    assert (heavy.mask_id, heavy.eos_id, heavy.pad_id) == (24, 2, 1)


def test_tokenizer(heavy: MaskedLMDenoiser) -> None:
    assert heavy.encode_prompt("<s>ACDEFGHIKLMNPQRSTVWY<mask>X</s>") == [0, *range(4, 25), 3, 2]
    assert heavy.decode([17, 21, 17, 2, 2]) == "QVQ"
    assert heavy.token_strings([4, 24]) == ["A", "<mask>"]


# Decoding.


@pytest.mark.slow
def test_a_row_is_the_same_in_any_company(heavy: MaskedLMDenoiser) -> None:
    task = Antibody()
    problems = [task.problem("train", index) for index in range(6)]
    prompts, given = ["<s>"] * 6, [problem.given for problem in problems]
    assert len({len(problem.answer) for problem in problems}) > 2
    policy = make_rule("low_confidence:16")
    together = decode(heavy, prompts, policy, DecodingSettings(128), given=given, batch_size=4)
    alone = [decode(heavy, ["<s>"], policy, DecodingSettings(128), given=[text])[0] for text in given]
    assert together == alone
    for problem, done in zip(problems, together, strict=True):
        assert problem.given is not None
        blanks = problem.given.count(BLANK)
        assert (len(done.text), done.nfe) == (len(problem.answer), math.ceil(blanks / 16))
        assert done.token_positions == done.nfe * (1 + len(problem.answer) + 1)  # <s>, the chain, </s>


def recovered(denoiser: MaskedLMDenoiser, rule: str, seeds: int = 1) -> float:
    """The share of trastuzumab's residues that are right when all are masked."""
    problem = Problem("antibody", "test", 0, "<s>", TRASTUZUMAB, BLANK * len(TRASTUZUMAB) + "</s>")
    policy, score = make_rule(rule), Antibody().score
    return (
        sum(
            score(
                decode(denoiser, ["<s>"], policy, DecodingSettings(128), given=[problem.given], seed=seed)[0].text,
                problem,
            )
            for seed in range(seeds)
        )
        / seeds
    )


@pytest.mark.slow
def test_order_matters_on_trastuzumab(heavy: MaskedLMDenoiser) -> None:
    # Measured before, with 8 residues a forward: 0.55 in the order of confidence, 0.22 at random (4 draws). A chain
    # of equal residues would have 0.13 at most.
    assert recovered(heavy, "low_confidence:8") == pytest.approx(0.55, abs=0.02)
    assert recovered(heavy, "random:8", 4) == pytest.approx(0.22, abs=0.08)


def test_generate_takes_the_plain_model(heavy: MaskedLMDenoiser) -> None:
    text = f"EVQLVESGGG{BLANK}VQPGGSLRLSCAASGF"
    [done] = generate(heavy.model, heavy.tokenizer, ["<s>"], make_rule("threshold"), given=[text], buffer_length=32)
    assert done.text == text.replace(BLANK, "L")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["threshold:0.3", "tiny"])
def test_rules_and_learned_policies_run_on_it(heavy: MaskedLMDenoiser, policy: str) -> None:
    made = load("tiny", any_dllm=True) if policy == "tiny" else make_rule(policy)
    outcomes = measure(heavy, made, tasks="antibody", episodes=2, buffer_length=128)
    assert all(0.1 < score < 1 for score in outcomes["score"])
    assert all(2 <= nfe < 100 for nfe in outcomes["nfe"])


@pytest.mark.slow
def test_a_policy_trains_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--out", str(tmp_path / "run"), "--total_timesteps=16", "--env.num_envs=4", "--ppo.n_steps=4"]
    flags += ["--ppo.batch_size=8", "--evaluation.episodes=1", "--wandb.mode=disabled"]
    config = parse(TrainPPOConfig, "ppo_antibody.yaml", [*flags, '--evaluation.rules=["threshold:0.1"]'])
    records = train(config)
    assert {record["task"] for record in records} == {"antibody", "all"}
    assert (load(tmp_path / "run" / "policy").trained or {})["model"] == "sapiens:heavy"


# Errors.


def test_a_wheel_without_weights_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for spec in (None, SimpleNamespace(submodule_search_locations=[str(tmp_path)])):
        monkeypatch.setattr("envs.models.sapiens.find_spec", lambda name, spec=spec: spec)
        with pytest.raises(FileNotFoundError, match=r"'sapiens:heavy': run pip install --no-deps sapiens==1\.0\.5"):
            checkpoint_file("sapiens:heavy")


def test_another_chain_type_is_named() -> None:
    with pytest.raises(ValueError, match="model is 'sapiens:kappa': choose from sapiens:heavy, sapiens:light"):
        load_denoiser("sapiens:kappa")


@pytest.mark.parametrize(("device", "dtype"), [("abacus", "float32"), ("cpu", "float33")])
def test_impossible_devices_and_dtypes_are_named(device: str, dtype: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}' and dtype '{dtype}': .* try cpu and float32"):
        load_denoiser("sapiens:heavy", device, dtype)


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(checkpoint_file("sapiens:heavy").read_bytes()[:1000])
    with pytest.raises(ValueError, match="can't be read"):
        read_checkpoint(file)
    tensors = read_checkpoint(checkpoint_file("sapiens:heavy"))
    del tensors["decoder.lm_head.bias"]
    with pytest.raises(ValueError, match=r"is not the one of sapiens==1\.0\.5"):
        build_model(tensors)
