"""All that actions can do at once, against a plain account of one row."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from account import ENGINE, PROMPTS, Plain, Shown, as_bits, empty, records, settle, some, surest
from denoisers import EOS, A, B, C, D, Mixing

from envs.decoding.settings import DecodingSettings
from envs.readings import MASK_READINGS
from envs.view import Action


@pytest.mark.each_value
@pytest.mark.parametrize(
    "uses",
    [
        *("", "scope", "tokens", "remask", "block_end", "length", "predict", "late", "predict late"),
        "scope tokens remask block_end length",
        "scope tokens remask block_end length late",
        "scope tokens remask block_end predict",
    ],
)
@pytest.mark.parametrize(("length", "block"), [(8, 8), (8, 2), (9, 3), (6, 1)])
@pytest.mark.parametrize("shown", [("full", "buffer"), ("truncated", "buffer"), ("full", "absolute"), ENGINE])
def test_any_actions_do_what_a_plain_account_says(uses: str, length: int, block: int, shown: Shown) -> None:
    denoiser, rng = Mixing(), random.Random(uses + str(block))
    is_used = {name: name in uses.split() for name in ("scope", "tokens", "remask", "block_end", "length")}
    for _ in range(4):
        settings = DecodingSettings(length, block, 0.0, MASK_READINGS, "predict" in uses, "late" not in uses, *shown)
        batch = empty(denoiser, settings)
        order = rng.sample(PROMPTS, 4)  # a row does the same anywhere in the batch
        plain = [Plain(prompt, settings) for prompt in order]
        batch.load(range(4), order)
        for _ in range(2 * length):
            if not batch.running.any():
                break
            view = batch.forward()
            chosen: list[dict[str, Any]] = []
            for row in plain:
                wanted: dict[str, Any] = {"commit": some(rng, length, rng.choice([0.1, 0.5]))}
                wanted |= {name: some(rng, length, 0.3) for name in ("scope", "remask") if is_used[name]}
                if is_used["tokens"]:
                    wanted["tokens"] = [rng.choice([EOS, A, B, C, D, D]) for _ in range(length)]
                if is_used["block_end"]:
                    wanted["block_end"] = rng.choice([row.end, rng.randint(0, length + 1)])
                if is_used["length"]:
                    wanted["length"] = rng.choice([row.length, rng.randint(0, length + 1)])
                chosen.append(wanted)
            action: dict[str, Any] = {}
            for name in chosen[0]:
                values = [wanted[name] for wanted in chosen]
                action[name] = (
                    as_bits(values, length) if name in ("commit", "scope", "remask") else torch.tensor(values)
                )
            finished = batch.apply(Action(**action)).tolist()
            for i, (row, wanted) in enumerate(zip(plain, chosen, strict=True)):
                was_done = row.is_done
                if not was_done:
                    row.forward(denoiser)
                    assert view.masked[i].nonzero().flatten().tolist() == row.masks()
                    assert [view.prediction[i, j].item() for j in row.seen] == [row.prediction[j] for j in row.seen]
                    believed = [row.confidence[j] for j in row.seen]
                    assert [view.confidence[i, j].item() for j in row.seen] == pytest.approx(believed)
                    row.apply(**wanted)
                assert finished[i] == (row.is_done and not was_done)
                assert records(batch, i) == row.records(), wanted
        assert not batch.running.any()


@pytest.mark.each_value
@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("block", [8, 4])
@pytest.mark.parametrize("shown", [("full", "buffer"), ENGINE])
def test_any_drafts_do_what_a_plain_account_says(block: int, predict: bool, shown: Shown) -> None:
    denoiser, rng = Mixing(), random.Random(block)
    settings = DecodingSettings(8, block, 0.0, frozenset(), predict, True, *shown)
    for _ in range(6):
        batch = empty(denoiser, settings)
        plain = [Plain(prompt, settings) for prompt in PROMPTS]
        batch.load(range(4), PROMPTS)
        batch.forward()
        for row in plain:
            row.forward(denoiser)
        just_done = [False] * 4
        while True:
            sets = [[some(rng, 8, 0.2) for _ in range(rng.choice([2, 3]))] for _ in plain]
            sets = [[*row, row[0], *row][:4] for row in sets]  # with repetitions
            drafts = torch.stack([as_bits(row, 8) for row in sets])
            action = Action(drafts[:, 0], drafts=drafts[:, 1:], choose=surest)
            assert batch.apply(action).tolist() == just_done
            if not batch.running.any():
                break
            was_done = [row.is_done for row in plain]
            plain = [row if row.is_done else settle(row, sets[i], denoiser) for i, row in enumerate(plain)]
            just_done = [row.is_done and not before for row, before in zip(plain, was_done, strict=True)]
            batch.forward()
            for i, row in enumerate(plain):
                if row.is_done:
                    # Which of several finishing drafts it was leaves no trace in the text.
                    end = [*row.buffer, EOS].index(EOS)
                    assert batch.tokens(i)[:end] == row.buffer[:end]
                    assert [int(batch.nfe[i]), int(batch.token_positions[i])] == [row.nfe, row.positions]
                else:
                    assert records(batch, i) == row.records()
        assert all(row.is_done for row in plain)
