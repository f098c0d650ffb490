"""Pretraining: batches, losses and resume, and that what it writes is what was trained."""

from __future__ import annotations

import math
import os
import signal
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import llada_shapes
from torch import Tensor
from torch.nn import functional

from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser
from envs.tasks import SUITE, make_tasks, split_of
from train.command import checkpoint
from train.command.errors import UserError
from train.command.interrupt import Interrupted
from train.command.lock import held
from train.pretrain import pretrain
from train.pretraining.architectures import answer_logits, build_model, build_tokenizer
from train.pretraining.config import MOST_SPARE, PretrainConfig
from train.pretraining.loop import STATE, Pretraining, build_optimizers, learning_rate_factor
from train.pretraining.losses import causal_loss, diffusion_loss
from train.pretraining.problems import ProblemStream

SMALL: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "batch_size": 8, "group_size": 4}
PROSE: dict[str, Any] = {**SMALL, "suite": "prose", "architecture": "llada", "buffer_lengths": [(0, 0.8), (128, 0.2)]}
KINDS: list[dict[str, Any]] = [SMALL, PROSE, {**SMALL, "objective": "causal"}]
BFLOAT16: dict[str, Any] = {**PROSE, "precision": "bfloat16"}


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint.read(folder / STATE)["model"]
    return state


# Batches.


def stream(**settings: Any) -> ProblemStream:
    config = PretrainConfig(**settings)
    return ProblemStream(build_tokenizer(make_tasks(config.suite), config.architecture), config)


def test_a_batch_is_a_function_of_its_number() -> None:
    one, other = stream(**PROSE), stream(**PROSE)
    other.batch(4)
    for first, second in zip(one.batch(7), other.batch(7), strict=True):
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.masked, second.masked)
    assert not torch.equal(one.batch(7)[0].targets, one.batch(8)[0].targets)
    assert not torch.equal(one.batch(7)[0].targets, stream(**PROSE, seed=1).batch(7)[0].targets)


@pytest.mark.parametrize("suite", ["suite", "prose"])
def test_rows_are_training_problems(suite: str) -> None:
    architecture = "llada" if suite == "prose" else "roberta"
    source = stream(**{**PROSE, "suite": suite, "architecture": architecture})
    words = {i: word for word, i in source.vocab.items()}
    tasks = {task.name: task for task in make_tasks(suite)}
    for step in range(6):
        for group in source.batch(step):
            for row, present in zip(group.targets, group.present, strict=True):
                prompt = " ".join(words[int(i)] for i in row[: -group.length][present[: -group.length]])
                answer = [words[int(i)] for i in row[-group.length :] if i != source.eos_id]
                assert split_of(prompt) == "train"
                name = prompt.split()[0]
                # End-of-text follows the answer, to the end of the buffer.
                assert (row[len(row) - group.length + len(answer) :] == source.eos_id).all()
                assert set(answer) <= set(tasks[name].words)
                assert not present[: len(row) - group.length - len(prompt.split())].any()


def test_masks_are_in_the_buffer_and_stratified() -> None:
    source = stream(**{**PROSE, "batch_size": 16, "group_size": 16, "buffer_lengths": [(64, 1.0)], "suite": "suite"})
    for step in range(5):
        (group,) = source.batch(step)
        assert not group.masked[:, : -group.length].any()
        assert (group.inputs[group.masked] == source.mask_id).all()
        assert torch.equal(group.inputs[~group.masked], group.targets[~group.masked])
        # One row in each sixteenth of the ratios: ceil(t 64) of 64 positions.
        counts = np.sort(group.masked.sum(1).numpy())
        assert ((counts - 1) // 4).tolist() == list(range(16)) or (np.diff(counts) == 4).all()


def test_groups_hold_sequences_of_like_length_in_short_buffers() -> None:
    source = stream(**{**PROSE, "batch_size": 32, "group_size": 8, "buffer_lengths": [(0, 1.0)]})
    groups = source.batch(0)
    assert [len(group.targets) for group in groups] == [8] * 4
    used = [(group.present.sum(1) - (group.targets[:, -group.length :] == source.eos_id).sum(1)) for group in groups]
    for shorter, longer in pairwise(used):
        assert shorter.max() <= longer.min()
    for group in groups:
        spare = (group.targets[:, -group.length :] == source.eos_id).sum(1).min()
        assert 1 <= spare <= MOST_SPARE


def test_a_long_buffer_has_fewer_rows_of_as_many_tokens() -> None:
    source = stream(**{**PROSE, "batch_size": 16, "group_size": 16, "buffer_lengths": [(128, 1.0)]})
    (group,) = source.batch(0)
    assert (len(group.targets), group.length) == (8, 128)


def test_a_buffer_that_is_too_short_is_refused() -> None:
    with pytest.raises(UserError, match="buffer_lengths holds 20"):
        stream(**{**PROSE, "buffer_lengths": [(20, 1.0)]}).batch(0)


def test_lessons_come_before_the_suite() -> None:
    lessons: list[tuple[int, list[str]]] = [(2, ["record:fewest=1,most=1"]), (3, ["trace:fewest=1,most=1", "puzzle"])]
    source = stream(**PROSE, lessons=lessons)
    words = {i: word for word, i in source.vocab.items()}
    for step, expected in enumerate([{"record"}] * 2 + [{"trace", "puzzle"}] * 3):
        rows = [(row, group) for group in source.batch(step) for row in group.targets]
        prompts = [" ".join(words[int(i)] for i in row[: -group.length] if i != source.pad_id) for row, group in rows]
        assert {prompt.split()[0] for prompt in prompts} <= expected
        assert not any("2)" in prompt.split() for prompt in prompts if not prompt.startswith("puzzle"))
    assert [task.name for task in source.tasks(5)] == [task.name for task in make_tasks("prose")]
    plain = stream(**PROSE)
    for taught, untaught in zip(source.batch(5), plain.batch(5), strict=True):
        assert torch.equal(taught.inputs, untaught.inputs)


# Losses.


def test_diffusion_loss_by_hand() -> None:
    masked = torch.tensor([[False, True, True], [False, False, True]])
    targets = torch.tensor([[0, 1, 0], [1, 1, 1]])
    chances = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]])  # of the three masked positions
    expected = (-math.log(0.5) - math.log(0.25)) / 2 - math.log(0.1)
    assert diffusion_loss(chances.log(), targets, masked).item() == pytest.approx(expected, rel=1e-6)


def test_causal_loss_by_hand() -> None:
    # A prompt of one token, an answer of one token, its end (id 2), and padding that does not count.
    targets = torch.tensor([[0, 1, 2, 2]])
    chances = torch.tensor([[[0.1, 0.6, 0.3], [0.2, 0.3, 0.5], [1 / 3] * 3, [1 / 3] * 3]])
    expected = -(math.log(0.6) + math.log(0.5)) / 2
    assert causal_loss(chances.log(), targets, 3, eos_id=2).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.1), (8, 0.9), (9, 1.0), (50, 1.0), (60, 1.0), (80, 0.5), (99, 0.025)]
)
def test_learning_rate_rises_stays_and_falls(step: int, factor: float) -> None:
    config = PretrainConfig(steps=100, warmup=0.1, decay=0.4)
    assert learning_rate_factor(step, config) == pytest.approx(factor)


@pytest.mark.parametrize("kind", KINDS)
def test_muon_has_the_matrices_of_the_layers(kind: dict[str, Any]) -> None:
    config = PretrainConfig(**kind)
    model = build_model(config, build_tokenizer(make_tasks(config.suite), config.architecture))
    muon, adam = ([p for group in o.param_groups for p in group["params"]] for o in build_optimizers(model, config))
    assert sorted(map(id, muon + adam)) == sorted(map(id, model.parameters()))
    assert all(p.ndim == 2 for p in muon)
    assert len(muon) == (12 if config.architecture == "roberta" and config.objective == "diffusion" else 14)
    # The embedding, and the norms.
    assert any(p.shape[0] == model.config.vocab_size for p in adam)


# Forwards and checkpoints.


@pytest.mark.parametrize("kind", [SMALL, PROSE])
def test_a_left_padded_row_is_the_row_alone(kind: dict[str, Any]) -> None:
    config = PretrainConfig(**kind)
    torch.manual_seed(0)
    model = build_model(config, build_tokenizer(make_tasks(config.suite), config.architecture)).eval()
    row = torch.randint(4, 100, (1, 9))
    padded = torch.cat([torch.full((1, 3), model.config.pad_token_id), row], 1)
    present = torch.arange(12)[None] >= 3
    with torch.no_grad():
        alone = answer_logits(model, row, torch.ones_like(row, dtype=torch.bool), torch.ones_like(row) > 0)
        together = answer_logits(model, padded, present, present)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [SMALL, PROSE])
def test_the_checkpoint_is_the_model_that_was_trained(kind: dict[str, Any], tmp_path: Path) -> None:
    config = PretrainConfig(**kind, out=tmp_path, steps=3, save_every=2)
    folder = pretrain(config)
    trained = Pretraining(config)
    denoiser = load_denoiser(str(folder))
    assert isinstance(denoiser, MaskedLMDenoiser)
    group = trained.stream.batch(11)[0]
    asked = torch.zeros_like(group.present)
    asked[:, -group.length :] = True
    with torch.no_grad():
        wanted = answer_logits(trained.model.eval(), group.inputs, group.present, asked)
    given = denoiser.logits(group.inputs, group.present, group.length)
    torch.testing.assert_close(given.flatten(0, 1), wanted, rtol=1e-4, atol=1e-5)
    assert (denoiser.mask_id, denoiser.eos_id) == (trained.stream.mask_id, trained.stream.eos_id)
    problem = trained.stream.tasks(0)[0].problem("test", 0)
    assert denoiser.decode(denoiser.encode_text(problem.answer)) == problem.answer


def test_llada_tensors_have_lladas_names(tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = pretrain(PretrainConfig(**PROSE, out=tmp_path, steps=1))
    with safe_open(folder / "model.safetensors", "pt") as file:
        # The head is the embedding.
        assert set(file.keys()) == set(llada_shapes()) - {"model.transformer.ff_out.weight"}
    denoiser = load_denoiser(str(folder))
    assert isinstance(denoiser, MaskedLMDenoiser)
    assert denoiser.family.name == "llada"


# Starting from a checkpoint.


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_training_starts_from_a_checkpoint(kind: dict[str, Any], tmp_path: Path) -> None:
    first = Pretraining(PretrainConfig(**kind, out=tmp_path / "first"))
    first.advance()
    first.save()
    second = Pretraining(PretrainConfig(**kind, out=tmp_path / "second", init=str(tmp_path / "first/model"), seed=1))
    expected = first.model.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in second.model.state_dict().items())
    assert second.step == 0


def test_words_that_the_checkpoint_knows_keep_their_embeddings(tmp_path: Path) -> None:
    first = Pretraining(PretrainConfig(**SMALL, out=tmp_path / "first"))
    first.save()
    prose: dict[str, Any] = {**PROSE, "architecture": "roberta", "out": tmp_path / "second"}
    second = Pretraining(PretrainConfig(**prose, init=str(tmp_path / "first/model")))
    fresh = build_model(second.config, second.tokenizer)
    ids, known = second.tokenizer.get_vocab(), first.tokenizer.get_vocab()
    old, new = (run.model.get_input_embeddings().weight for run in (first, second))
    assert all(torch.equal(new[ids[word]], old[known[word]]) for word in ("[MASK]", "[EOS]", "=", "1", "c"))
    assert not any(torch.equal(row, new[ids["story"]]) for row in old)
    # What is no table of words is the checkpoint's whole.
    expected = first.model.state_dict()
    whole = [key for key, tensor in fresh.state_dict().items() if tensor.shape == expected[key].shape]
    assert len(whole) > 10
    assert all(torch.equal(second.model.state_dict()[key], expected[key]) for key in whole)


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path: Path) -> None:
    Pretraining(PretrainConfig(**SMALL, out=tmp_path / "first")).save()
    other = PretrainConfig(**{**SMALL, "hidden_size": 64}, out=tmp_path / "second", init=str(tmp_path / "first/model"))
    with pytest.raises(UserError, match=r"init is .*weight has shape \(\d+, 32\), not \(\d+, 64\)"):
        Pretraining(other)
    with pytest.raises(UserError, match="init is 'toy', which has no weights"):
        Pretraining(replace(other, init="toy"))


# The loop.


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_ends_with_the_same_weights(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(**kind, steps=6, save_every=2)
    pretrain(replace(config, out=tmp_path / "whole"))

    killed = replace(config, out=tmp_path / "killed")
    advance = Pretraining.advance

    def die_after_three(run: Pretraining) -> None:
        if run.step == 3:
            raise KeyboardInterrupt
        advance(run)

    monkeypatch.setattr(Pretraining, "advance", die_after_three)
    with pytest.raises(KeyboardInterrupt):
        pretrain(killed)
    monkeypatch.undo()
    assert Pretraining(killed).step == 2  # the third step was not saved and is taken again
    pretrain(killed)

    whole, resumed = (checkpoint.read(tmp_path / name / STATE) for name in ("whole", "killed"))
    assert all(torch.equal(tensor, resumed["model"][name]) for name, tensor in whole["model"].items())
    assert whole["average"] == resumed["average"]
    assert whole["step"] == resumed["step"] == 6


def test_sigterm_saves_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PretrainConfig(**SMALL, out=tmp_path / "stopped", steps=4, save_every=100)
    advance = Pretraining.advance

    def stop_in_the_second(run: Pretraining) -> None:
        if run.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        advance(run)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["train/pretrain.py", "--steps=4"])
    monkeypatch.setattr(Pretraining, "advance", stop_in_the_second)
    with pytest.raises(
        Interrupted, match=r"by SIGTERM; saved after step 2 in .*; go on with: .*pretrain.py --steps=4$"
    ):
        pretrain(config)
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    pretrain(config)
    pretrain(replace(config, out=tmp_path / "whole"))
    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("field", "value"), [("seed", 1), ("hidden_size", 64), ("suite", "prose"), ("buffer_lengths", [(64, 1.0)])]
)
def test_another_run_is_not_continued(field: str, value: object, tmp_path: Path) -> None:
    config = PretrainConfig(**SMALL, out=tmp_path, steps=1)
    pretrain(config)
    with pytest.raises(UserError, match=f"^{field} is"):
        pretrain(replace(config, **{field: value, "steps": 2}))


def test_a_finished_run_can_be_given_more_steps(tmp_path: Path) -> None:
    config = PretrainConfig(**SMALL, out=tmp_path, steps=1)
    pretrain(config)
    before = weights(tmp_path)
    pretrain(config)
    assert all(torch.equal(tensor, weights(tmp_path)[name]) for name, tensor in before.items())
    pretrain(replace(config, steps=2))
    assert Pretraining(replace(config, steps=2)).step == 2
    with pytest.raises(UserError, match=r"steps is 1: .* is at step 2 already; give that or more"):
        pretrain(config)


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(UserError, match=r"which is not empty and holds no pretraining: choose another folder, as in"):
        pretrain(PretrainConfig(**SMALL, out=tmp_path, steps=1))
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


def test_one_that_was_killed_before_it_saved_goes_on(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in (".lock", "state.safetensors.tmp"):
        (tmp_path / name).write_text("")
    pretrain(PretrainConfig(**SMALL, out=tmp_path, steps=1))


@pytest.mark.parametrize(
    "kind", [SMALL, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (*KINDS[1:], BFLOAT16))]
)
def test_training_learns(kind: dict[str, Any], tmp_path: Path) -> None:
    run = Pretraining(PretrainConfig(**{**kind, "batch_size": 16, "group_size": 16}, out=tmp_path, warmup=0.001))
    losses = []
    for _ in range(25):
        run.advance()
        losses.append(run.average)
    assert losses[0] == pytest.approx(math.log(run.model.config.vocab_size), rel=0.1)
    assert losses[-1] < 0.95 * losses[0]  # an average over about fifty steps


@pytest.mark.parametrize(
    "settings", [{"suite": "poems"}, {"steps": 0}, {"group_size": 0}, {"hidden_size": 100, "num_heads": 3}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(reversed(settings))} is"):
        PretrainConfig(**settings)


@pytest.mark.parametrize(
    ("lesson", "sentence"),
    [
        ((0, ["copy"]), r"lessons holds \[0, \['copy'\]\]: give 1 step or more"),
        ((5, []), "give 1 step or more and a task or more"),
        ((5, ["story"]), "lessons holds task 'story': "),
        ((5, ["copy:lengths=3"]), "lengths"),
    ],
)
def test_impossible_lessons_are_refused(lesson: tuple[int, list[str]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PretrainConfig(lessons=[lesson])


def test_llama_attends_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PretrainConfig(**PROSE)
    source = stream(**PROSE)
    model = build_model(config, build_tokenizer(make_tasks("prose"), "llada"))
    ours = model.config._attn_implementation
    seen: list[torch.dtype] = []
    attend = functional.scaled_dot_product_attention

    def look(query: Tensor, *rest: Any, **options: Any) -> Tensor:
        seen.append(query.dtype)
        return attend(query, *rest, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", look)
    group = source.batch(0)[0]
    with torch.no_grad():
        expected = answer_logits(model, group.inputs, group.present, group.masked)
        model.set_attn_implementation("sdpa")
        assert torch.equal(answer_logits(model, group.inputs, group.present, group.masked), expected)
        model.set_attn_implementation(ours)
        with torch.autocast("cpu", torch.bfloat16):
            answer_logits(model, group.inputs, group.present, group.masked)
    assert set(seen) == {torch.float32}


def test_tiny_is_what_pretrain_builds() -> None:
    config = PretrainConfig()
    model = build_model(config, build_tokenizer(make_tasks(SUITE)))
    tiny = load_denoiser("tiny")
    assert isinstance(tiny, MaskedLMDenoiser)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in tiny.model.named_parameters()}


def test_one_process_pretrains_in_a_folder(tmp_path: Path) -> None:
    config = PretrainConfig(**SMALL, out=tmp_path, steps=1)
    with held(tmp_path), pytest.raises(UserError, match=f"which process {os.getpid()} on .* writes to"):
        pretrain(config)
    pretrain(config)
