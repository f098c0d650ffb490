from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from threads import InThreads
from torch import Tensor

import train.filters.start as start_module
import train.filters.traces as traces_module
from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings, conditions_of
from envs.denoiser import Denoiser
from envs.models.load import load_denoiser
from envs.models.toy import ToyDenoiser
from envs.tasks import TASKS, make_tasks
from envs.view import Action
from policies import LearnedPolicy, LowConfidence, NetworkConfig, Threshold, UnmaskingNetwork, decode, save
from policies.base import UnmaskingPolicy
from policies.playing import play_out
from policies.rules import Oracle
from train.command import parallel
from train.command.errors import UserError
from train.command.model_config import ModelConfig
from train.filters.fit import FitSettings
from train.filters.start import learn_start
from train.filters.traces import FIRST_PROBLEM, TraceConfig, Traces, collect, collect_shard, problems_of, target_of

FEATURES = ("is_eos", "margin", "repeated")
COLUMNS = {"confidence", "eligible", "masked", "oracle", "time", *FEATURES}
Columns = dict[str, np.ndarray]


def prompts_of(config: TraceConfig, shard: int) -> list[str]:
    return [problem.prompt for problem in problems_of(config, shard)]


class Fickle(ToyDenoiser):
    """Odd positions say "=" until the one to their left is committed, so some predictions are not final."""

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        logits = super().logits(tokens, attention_mask, length, position_ids)
        height, word = logits.max(-1)
        left = torch.roll(tokens[:, -length:], 1, 1)
        doubtful = (torch.arange(length) % 2 == 1) & (left == self.mask_id)
        word = torch.where(doubtful, self._ids["="], word)
        return torch.zeros_like(logits).scatter(-1, word.unsqueeze(-1), height.unsqueeze(-1))


@pytest.fixture
def fickle(monkeypatch: pytest.MonkeyPatch) -> Fickle:
    """Traces are of this denoiser, in shards of 5 problems, collected without new processes."""
    denoiser = Fickle()
    monkeypatch.setattr("train.command.model_config.load_denoiser", lambda *args, **options: denoiser)
    monkeypatch.setattr(traces_module, "SHARD", 5)
    monkeypatch.setattr("train.command.parallel.worker_pool", InThreads)
    return denoiser


def about(folder: Path, **others: Any) -> TraceConfig:
    """Thirteen problems: shards of 5, 5 and 3."""
    fields: dict[str, Any] = {
        "block_length": 4,
        "features": FEATURES,
        "model": ModelConfig("toy"),
        "tasks": ("copy", "sort"),
    }
    return TraceConfig(folder, 13, **{"buffer_length": 8, **fields, **others})


def whole(traces: Traces) -> Columns:
    return {name: np.concatenate(parts) for name, parts in traces.columns.items()}


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written and what it holds."""
    return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*.npy")}


def replay(denoiser: Denoiser, config: TraceConfig, prompt: str, policy: UnmaskingPolicy | None) -> list[Columns]:
    """Decode one problem alone and note each step; without a policy, commit what agrees with the reference."""
    settings = DecodingSettings(
        config.buffer_length,
        config.block_length,
        features=frozenset(config.features),
        **conditions_of(config),
    )
    [reference] = decode(denoiser, [prompt], LowConfidence(1), settings)
    batch = DecodingBatch(denoiser, 1, settings)
    batch.load([0], [denoiser.encode_prompt(prompt)])
    steps = []
    while batch.running.any():
        view = batch.forward()
        bits = view.eligible & (view.prediction == torch.tensor([reference.tokens]))
        steps.append({name: values.numpy() for name, values in {**view.inputs(), "oracle": bits.float()}.items()})
        chosen = bits.clone()
        if policy is not None and not config.rejoins:
            chosen = policy.act(view).commit
        else:
            likely = view.confidence.masked_fill(~(bits if bits.any() else view.eligible), -1.0)
            if policy is not None:
                chosen &= policy.act(view).commit
            if not chosen.any():
                chosen[0, likely.argmax()] = True
        batch.apply(Action(chosen))
    return steps


def in_order(problems: list[list[Columns]]) -> Columns:
    """The rows of a shard: its problems side by side, step by step."""
    longest = max(map(len, problems))
    rows = [steps[t] for t in range(longest) for steps in problems if t < len(steps)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def by_hand(denoiser: Denoiser, config: TraceConfig, policy: UnmaskingPolicy | None = None) -> Columns:
    shards = range(-(-config.problems // traces_module.SHARD))
    parts = [in_order([replay(denoiser, config, p, policy) for p in prompts_of(config, s)]) for s in shards]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_same(found: Columns, expected: Columns) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("block_length", [8, 4, 2])
def test_traces_against_a_replay_by_hand(fickle: Fickle, tmp_path: Path, block_length: int) -> None:
    config = about(tmp_path, block_length=block_length)
    traces = collect(config)
    found = whole(traces)
    assert_same(found, by_hand(fickle, config))
    assert set(found) == COLUMNS
    rows = len(traces)
    assert {name: values.shape for name, values in found.items() if name != "time"} == dict.fromkeys(
        COLUMNS - {"time"}, (rows, 8)
    )
    assert found["time"].shape == (rows, 1)
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    assert found["eligible"].any(1).all()
    assert not (found["oracle"] > found["eligible"]).any()
    assert 0.1 < found["oracle"][found["eligible"] > 0].mean() < 0.95  # both answers occur


def test_traces_of_what_engines_show(fickle: Fickle, tmp_path: Path) -> None:
    config = about(tmp_path / "shown", window="truncated", block_origin="absolute")
    found = whole(collect(config))
    assert_same(found, by_hand(fickle, config))
    elsewhere = whole(collect(about(tmp_path / "whole")))
    assert len(found["oracle"]) != len(elsewhere["oracle"])


@pytest.mark.slow
def test_traces_of_what_a_cache_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.command.parallel.worker_pool", InThreads)
    fields: dict[str, Any] = {"tasks": ("shuffle", "add"), "buffer_length": 32, "block_length": 16}
    fields |= {"problems": 6, "features": ("age", "margin"), "model": ModelConfig("tiny")}
    config = TraceConfig(tmp_path / "dual", cache="dual:refresh=2", **fields)
    denoiser = load_denoiser("tiny")
    found = whole(collect(config))
    assert_same(found, by_hand(denoiser, config))
    assert found["age"].max() > 0
    assert not whole(collect(TraceConfig(tmp_path / "none", **fields)))["age"].any()


def test_as_many_rows_as_the_oracle_needs_forwards(fickle: Fickle, tmp_path: Path) -> None:
    config = about(tmp_path)
    prompts = [prompt for shard in range(3) for prompt in prompts_of(config, shard)]
    settings = DecodingSettings(8, 4, features=Oracle.features)
    done = decode(fickle, prompts, Oracle(), settings)
    assert len(prompts) == 13
    assert len(collect(config)) == sum(each.nfe for each in done)
    assert len({each.nfe for each in done}) > 1


def test_what_the_toy_says_is_always_final(tmp_path: Path) -> None:
    collect_shard(about(tmp_path, model=ModelConfig("toy")), 0)
    found = whole(Traces([tmp_path / "shard_00000"]))
    np.testing.assert_array_equal(found["oracle"], found["eligible"])


@pytest.mark.slow
def test_a_behaviour_records_its_own_states(fickle: Fickle, tmp_path: Path) -> None:
    network = UnmaskingNetwork(NetworkConfig(threshold=0.5, features=("margin",)))
    folder = save(LearnedPolicy(network, "sample"), tmp_path / "policy")
    config = about(tmp_path / "own", behaviour=str(folder), threshold=0.8)
    own = whole(collect(config))
    # At a half the network is the rule threshold:0.5; four times the odds make that 0.8.
    assert_same(own, by_hand(fickle, config, Threshold(0.8)))
    oracles = whole(collect(about(tmp_path / "oracle")))
    assert len(own["oracle"]) != len(oracles["oracle"])
    loose = collect(replace(config, folder=tmp_path / "loose", threshold=0.01))
    assert len(loose) < len(own["oracle"])


@pytest.mark.parametrize("threshold", [0.01, 0.8])
def test_a_student_rejoins_the_recorded_answer(fickle: Fickle, tmp_path: Path, threshold: float) -> None:
    """One that commits all that is eligible, wrong or not, becomes the oracle; a careful one is slower."""
    network = UnmaskingNetwork(NetworkConfig(threshold=0.5, features=("margin",)))
    folder = save(LearnedPolicy(network, "sample"), tmp_path / "policy")
    config = about(tmp_path / "rejoined", behaviour=str(folder), threshold=threshold, rejoins=True)
    rejoined = whole(collect(config))
    assert_same(rejoined, by_hand(fickle, config, Threshold(threshold)))
    oracles = whole(collect(about(tmp_path / "oracle")))
    if threshold == 0.01:
        assert_same(rejoined, oracles)
    else:
        assert len(rejoined["oracle"]) > len(oracles["oracle"])


def test_answers_are_decoded_once(fickle: Fickle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = UnmaskingNetwork(NetworkConfig(threshold=0.5, features=("margin",)))
    folder = save(LearnedPolicy(network, "sample"), tmp_path / "policy")
    config = about(tmp_path / "first", behaviour=str(folder), threshold=0.8, rejoins=True)
    first = whole(collect(config))

    def decoded(*args: Any) -> None:
        raise AssertionError("a reference is decoded again")

    monkeypatch.setattr("policies.rules.oracle.play_out", decoded)
    assert_same(whole(collect(replace(config, folder=tmp_path / "again", answers=tmp_path / "first"))), first)
    with pytest.raises(AssertionError, match="decoded again"):
        collect(replace(config, folder=tmp_path / "other"))


def test_a_filter_learns_in_rounds(fickle: Fickle, tmp_path: Path) -> None:
    """The second round adds what the first one's filter came to, and starts where a killed one stopped."""
    shape = NetworkConfig(features=("margin",), init="threshold")
    settings = FitSettings(epochs=1)

    def learn(folder: Path, rounds: int) -> dict[str, Any]:
        config = replace(about(folder), features=("margin",))
        learn_start(folder, config, [4], shape, settings, 16.0, 1, rounds)
        trained: dict[str, Any] = json.loads((folder / "config.json").read_text())["trained"]
        return trained

    once, twice = learn(tmp_path / "once", 1), learn(tmp_path / "twice", 2)
    assert (once["rounds"], twice["rounds"]) == (1, 2)
    assert twice["steps"] > once["steps"]
    assert not (tmp_path / "twice_traces").exists()

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start_module, "versions", killed)  # as the second filter is about to be written
        with pytest.raises(KeyboardInterrupt):
            learn(tmp_path / "killed", 2)
    students = tmp_path / "killed_traces/student1/model.safetensors"
    before = students.stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces_module, "collect_shard", killed)  # all that is to be seen was seen
        patch.setattr(start_module, "save", only_once(students, before))
        assert learn(tmp_path / "killed", 2)["steps"] == twice["steps"]
    assert (tmp_path / "killed/model.safetensors").read_bytes() == (tmp_path / "twice/model.safetensors").read_bytes()


def test_the_reference_decodes_once_in_the_longest_blocks(
    fickle: Fickle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, settings = NetworkConfig(features=("margin",)), FitSettings(epochs=1)
    config = replace(about(tmp_path / "filter"), features=("margin",))
    decoded: list[tuple[int, int]] = []

    def noted(batch: DecodingBatch, policy: UnmaskingPolicy) -> None:
        decoded.append((batch.settings.block_length or 0, int(batch.running.sum())))
        play_out(batch, policy)

    monkeypatch.setattr("policies.rules.oracle.play_out", noted)
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: None)
    learn_start(config.folder, config, [4, 8], shape, settings, 16.0, 1, rounds=2)
    # 13 problems to learn from and one that stops it, in both rounds and decodings.
    assert {block for block, _ in decoded} == {8}
    assert sum(rows for _, rows in decoded) == 14
    place = tmp_path / "filter_traces"
    first, second = (Traces(sorted((place / f"train_{block}").glob("shard_*"))) for block in (4, 8))
    expected = by_hand(fickle, replace(config, block_length=8))
    assert_same(whole(second), expected)
    # In shorter blocks as many texts, the same ones, in more steps.
    assert len(first) > len(second)
    for shard in (place / "train_4").iterdir():
        answers = [load_file(place / f"train_{block}" / shard.name / "answers.safetensors") for block in (4, 8)]
        assert all(torch.equal(values, answers[1][name]) for name, values in answers[0].items())


def test_a_filter_learns_from_no_traces_of_other_settings(fickle: Fickle, tmp_path: Path) -> None:
    """What a killed run left is used by a run of the same settings alone, and is gone once there is a filter."""
    config = replace(about(tmp_path / "filter"), features=("margin",))
    shape, settings, place = NetworkConfig(features=("margin",)), FitSettings(epochs=1), tmp_path / "filter_traces"

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start_module, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            learn_start(config.folder, config, [4], shape, settings, 16.0, 1)
        left = files(place)
        with pytest.raises(KeyboardInterrupt):
            learn_start(config.folder, config, [4], shape, settings, 16.0, 1)
        assert files(place) == left
        # Where it runs, and what the folder is called, is not what was collected.
        moved = tmp_path / "moved"
        shutil.copytree(place, moved / "filter_traces")
        elsewhere = replace(config, folder=moved / "filter", model=replace(config.model, threads=2))
        with pytest.raises(KeyboardInterrupt):
            learn_start(elsewhere.folder, elsewhere, [4], shape, settings, 16.0, 1)
        assert list(files(moved / "filter_traces").values()) == list(left.values())
        with pytest.raises(KeyboardInterrupt):
            learn_start(config.folder, replace(config, reference="threshold:0.01"), [4], shape, settings, 16.0, 1)
        assert files(place).keys() == left.keys()
        assert files(place) != left
    learn_start(config.folder, config, [4], shape, settings, 16.0, 1)
    assert not place.exists()
    place.mkdir()  # as one that was killed after it wrote its filter
    assert "taken from" in learn_start(config.folder, config, [4], shape, settings, 16.0, 1)
    assert not place.exists()


def test_hidden_states_are_kept_in_half_precision(fickle: Fickle, tmp_path: Path) -> None:
    config = about(tmp_path, features=("margin", "hidden"))
    traces = collect(config)
    found, expected = whole(traces), by_hand(fickle, config)
    assert found["hidden"].dtype == np.float16
    assert found["hidden"].shape == (len(traces), 8, fickle.hidden_size)
    np.testing.assert_array_equal(found["hidden"], expected.pop("hidden").astype(np.float16))
    rows = traces.rows(np.arange(len(traces)))
    assert traces.large_batch == 4096
    traces.bytes = len(traces) * 2**21  # as an 8B model's
    assert traces.large_batch == 128
    assert rows["hidden"].dtype == torch.float32
    np.testing.assert_array_equal(rows["hidden"].numpy(), found.pop("hidden"))
    assert_same(found, expected)


@pytest.mark.parametrize("target", ["agreement", "margin"])
def test_what_is_learned_of_a_position_by_hand(target: Any, fickle: Fickle, tmp_path: Path) -> None:
    features = frozenset({*Oracle.features, "probabilities"})
    settings = DecodingSettings(8, 4, features=features)
    oracle = Oracle().bind(fickle, settings)
    [prompt] = prompts_of(about(tmp_path), 0)[:1]
    batch = DecodingBatch(fickle, 1, settings)
    batch.load([0], [fickle.encode_prompt(prompt)])
    view = batch.forward()
    right = oracle.reference_of(view)[0]
    found = target_of(target, view, oracle)
    assert found.dtype == torch.float32
    assert not found[0, 4:].any()  # of the next block
    for place in range(4):
        probability = view.tensors["probabilities"][0, place]
        own = float(probability[right[place]])
        other = max(float(p) for token, p in enumerate(probability) if token != right[place])
        is_right = own > other
        expected = (1 + own - other) / 2 if target == "margin" else float(is_right)
        assert float(found[0, place]) == pytest.approx(expected)
        assert (expected > 0.5) == is_right
    # Odd places say "=" until the one to their left is known; the reference knew the last one's, not the second's.
    assert [bool(value > 0.5) for value in found[0, :4]] == [True, True, True, False]


def test_margins_are_collected(fickle: Fickle, tmp_path: Path) -> None:
    """In the steps that bits are, on the same side of a half, and with no more columns."""
    bits, margins = (whole(collect(about(tmp_path / name, target=name))) for name in ("agreement", "margin"))
    assert margins.keys() == bits.keys()
    np.testing.assert_array_equal(margins["oracle"] > 0.5, bits["oracle"] == 1)
    np.testing.assert_array_equal(margins["confidence"], bits["confidence"])
    assert ((margins["oracle"] > 0) <= (margins["eligible"] > 0)).all()
    assert len(np.unique(margins["oracle"])) > 2


def test_a_student_needs_a_behaviour(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rejoins is given without a behaviour"):
        about(tmp_path, rejoins=True)


def only_once(student: Path, written: int) -> Any:
    def saved(policy: LearnedPolicy, folder: Path, *card: str) -> Path:
        assert folder != student.parent
        assert student.stat().st_mtime_ns == written
        return save(policy, folder, *card)

    return saved


@pytest.mark.slow
def test_a_lost_shard_alone_is_collected_again(fickle: Fickle, tmp_path: Path) -> None:
    config = about(tmp_path)
    collect(config)
    before = files(tmp_path)
    assert {name.partition("/")[0] for name in before} == {"shard_00000", "shard_00001", "shard_00002"}
    shutil.rmtree(tmp_path / "shard_00001")
    (tmp_path / "partial_00001").mkdir()
    (tmp_path / "partial_00001" / "confidence.npy").write_bytes(b"cut o")
    (tmp_path / "partial_00001" / "junk.npy").write_bytes(b"")
    traces = collect(config)
    after = files(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name][0] != before[name][0]} == {
        f"shard_00001/{column}.npy" for column in COLUMNS
    }
    assert all(after[name][1] == before[name][1] for name in before)
    assert_same(whole(traces), by_hand(fickle, config))


@pytest.mark.parametrize("name", ["confidence.npy", "oracle.npy", "answers.safetensors"])
@pytest.mark.parametrize("damage", [lambda file: os.truncate(file, 10), lambda file: file.unlink()])
def test_a_damaged_shard_is_named(fickle: Fickle, tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    config = replace(about(tmp_path / "train_8"), block_length=8)
    collect(config)
    damage(config.folder / "shard_00000" / name)
    again = replace(config, folder=tmp_path / "train_4", block_length=4, answers=config.folder)
    with pytest.raises(UserError, match=r"shard_00000' can't be read \(.*\): delete that folder to collect it again"):
        collect(again if name.startswith("answers") else config)


def test_settings_of_traces_that_are_damaged_are_written_anew(tmp_path: Path) -> None:
    place = tmp_path / "filter_traces"
    place.mkdir()
    (place / "settings.json").write_text("")
    start_module._begin(place, {"a": 1})
    assert json.loads((place / "settings.json").read_text()) == {"a": 1}


def test_nothing_missing_starts_no_process(fickle: Fickle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = collect(about(tmp_path))
    monkeypatch.setattr("train.command.parallel.worker_pool", None)
    assert len(collect(about(tmp_path))) == len(traces)


@pytest.mark.slow
def test_processes_write_what_this_one_does(tmp_path: Path) -> None:
    """The only test with real processes: their start takes seconds."""
    config = replace(about(tmp_path / "there"), problems=66)
    collect(config, 1)
    for shard in (0, 1):
        collect_shard(replace(config, folder=tmp_path / "here"), shard)
    there, here = files(tmp_path / "there"), files(tmp_path / "here")
    assert {name: content for name, (_, content) in there.items()} == {
        name: content for name, (_, content) in here.items()
    }


def test_torchruns_processes_share_the_shards(fickle: Fickle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads stand for them; a shard that is there is collected by neither."""
    alone = collect(about(tmp_path / "alone"))
    config = about(tmp_path / "shared")
    shutil.copytree(tmp_path / "alone/shard_00001", config.folder / "shard_00001")
    here, meeting, told = threading.local(), threading.Barrier(2, timeout=60), list[Any]()
    dealt: dict[int, list[int]] = {}
    deal = parallel.deal

    def broadcast(value: Any) -> Any:
        if here.rank == 0:
            told.append(value)
        meeting.wait()
        return told[-1]

    def noted(items: list[int]) -> list[int]:
        return dealt.setdefault(here.rank, deal(items))

    def one(rank: int) -> Columns:
        here.rank = rank
        return whole(collect(config))

    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "rank", lambda: here.rank)
    monkeypatch.setattr(parallel, "broadcast", broadcast)
    monkeypatch.setattr(parallel, "wait", meeting.wait)
    monkeypatch.setattr(parallel, "deal", noted)
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(one, (0, 1)))
    assert dealt == {0: [0], 1: [2]}
    for columns in found:
        assert_same(columns, whole(alone))


# Reading.


@pytest.fixture
def collected(fickle: Fickle, tmp_path: Path) -> Traces:
    return collect(about(tmp_path))


def test_shards_are_memory_mapped(collected: Traces) -> None:
    parts = [part for parts in collected.columns.values() for part in parts]
    assert all(isinstance(part, np.memmap) for part in parts)
    assert not any(part.flags.writeable for part in parts)
    assert collected.bytes == len(collected) * 4 * (1 + 8 * (len(COLUMNS) - 1))
    assert len(collected) == sum(collected.sizes)
    assert len(collected.sizes) == 3


def test_rows_in_any_order_are_those_of_the_concatenation(collected: Traces) -> None:
    expected, size = whole(collected), len(collected)
    rng = np.random.default_rng(0)
    ends = np.cumsum(collected.sizes)
    for index in (
        rng.permutation(size),
        rng.integers(0, size, 7),
        np.array([size - 1]),
        np.sort([*ends - 1, *ends[:2]]),
    ):
        found = collected.rows(index)
        assert found.keys() == expected.keys()
        for name, values in found.items():
            np.testing.assert_array_equal(values.numpy(), expected[name][index])


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_cover_every_row_once(collected: Traces, size: int, shuffled: bool) -> None:
    def joined(seed: int) -> tuple[list[int], np.ndarray]:
        batches = list(collected.batches(size, np.random.default_rng(seed) if shuffled else None))
        assert all(set(batch) == COLUMNS for batch in batches)
        rows = [torch.cat([batch[name].flatten(1) for name in sorted(COLUMNS)], 1) for batch in batches]
        return [len(part) for part in rows], torch.cat(rows).numpy()

    lengths, found = joined(3)
    columns = whole(collected)
    expected = np.concatenate([columns[name] for name in sorted(COLUMNS)], 1)
    assert set(lengths[:-1]) <= {size}
    if not shuffled:
        np.testing.assert_array_equal(found, expected)
        return
    assert not np.array_equal(found, expected)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])
    assert np.array_equal(joined(3)[1], found)
    assert not np.array_equal(joined(4)[1], found)


# Problems.


def test_problems_by_hand(tmp_path: Path) -> None:
    config = TraceConfig(tmp_path, 67, tasks=("copy", "add"))
    copies, sums = make_tasks(["copy", "add"])
    found = [*prompts_of(config, 0), *prompts_of(config, 1)]
    assert [len(prompts_of(config, shard)) for shard in (0, 1)] == [64, 3]
    expected = [(copies, sums)[n % 2].problem("train", FIRST_PROBLEM + n // 2).prompt for n in range(67)]
    assert found == expected


def test_training_and_validation_problems_are_apart(tmp_path: Path) -> None:
    """And training problems are none of the split's first; short lists and sums repeat by chance, sudokus hardly."""
    prompts = {}
    for split in ("train", "validation"):
        config = TraceConfig(tmp_path, 9 * 30, split=split)  # type: ignore[arg-type]
        prompts[split] = {prompt for shard in range(5) for prompt in prompts_of(config, shard)}
        assert {prompt.split()[0] for prompt in prompts[split]} == set(TASKS)
    assert not prompts["train"] & prompts["validation"]
    assert {task().problem("validation", 29).prompt for task in TASKS.values()} <= prompts["validation"]
    assert {task().problem("train", FIRST_PROBLEM + 29).prompt for task in TASKS.values()} <= prompts["train"]
    assert not prompts["train"] & {TASKS["sudoku"]().problem("train", i).prompt for i in range(100)}


def test_only_what_a_careful_rule_gets_right_is_kept(fickle: Fickle, tmp_path: Path) -> None:
    """The reference is that of the rule: one that commits everything at once is wrong wherever a position is fickle."""
    hasty = whole(collect(about(tmp_path / "hasty", reference="threshold:0.01")))
    careful = whole(collect(about(tmp_path / "careful")))
    assert len(hasty["oracle"]) == 13 * 2  # one forward a block of 4: all that is predicted is the reference
    assert (hasty["oracle"] == (hasty["eligible"] > 0)).all()
    assert len(careful["oracle"]) > 13 * 2
    config = about(tmp_path / "right", buffer_length=32, block_length=8, only_right=True)
    right = whole(collect(config))
    problems = [problem for shard in range(3) for problem in problems_of(config, shard)]
    texts = [
        done.text
        for done in decode(fickle, [problem.prompt for problem in problems], LowConfidence(1), DecodingSettings(32, 8))
    ]
    scorers = {task.name: task.score for task in make_tasks(["copy", "sort"])}
    answered = [scorers[problem.task](text, problem) == 1 for problem, text in zip(problems, texts, strict=True)]
    assert 0 < sum(answered) < len(answered)
    firsts = right["time"][:, 0] == 0
    assert firsts.sum() == sum(answered)
