"""What a policy sees under a cache: new where a forward computed something, as it was everywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import places
import pytest
import torch
from checkpoints import build
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models.load import load_denoiser
from envs.view import Action, View
from policies import make_rule

pytestmark = pytest.mark.usefixtures("device")

PROMPTS = ([5] * 3, [6, 7, 8, 9, 5], [7] * 6)
READ = frozenset({"age", "unseen", "is_eos", "eos_probability", "entropy", "margin", "hidden"})
READ |= {"token_probability", "best_probabilities"}
CACHES = ("prefix", "dual", "dkv:refresh=3", "freecache:piece=2", "d2cache:masks=3", "window:window=5,active=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llada", tmp_path_factory.mktemp("views"))


def views(folder: Path, prompts: Any, cache: str, steps: int = 8, blocks: Any = None) -> list[View]:
    """Commit the likeliest position of each row in each step."""
    denoiser = load_denoiser(str(folder), str(places.here), family="llada", chat_template=False)
    batch = DecodingBatch(denoiser, len(prompts), DecodingSettings(8, 4, cache=cache, early_end=False, features=READ))
    batch.load(range(len(prompts)), prompts, block_lengths=blocks)
    found = []
    for _ in range(steps):
        found.append(batch.forward())
        batch.apply(make_rule("low_confidence:1").act(found[-1]))
    return found


def readings(view: View) -> dict[str, Tensor]:
    assert {"age", "unseen", "entropy", "margin"} <= view.features.keys()
    assert {"hidden", "token_probability", "best_probabilities"} <= view.tensors.keys() | view.features.keys()
    told = {name: values for name, values in view.tensors.items() if name != "prompt"}
    return {"confidence": view.confidence, "prediction": view.prediction, **view.features, **told}


@pytest.mark.parametrize("cache", CACHES)
def test_a_row_sees_in_a_batch_what_it_sees_alone(folder: Path, cache: str) -> None:
    """In blocks of its own length, so that one computes everything where another does not."""
    blocks = [4, 2, 8]
    together = views(folder, PROMPTS, cache, blocks=blocks)
    for row, prompt in enumerate(PROMPTS):
        for seen, alone in zip(together, views(folder, [prompt], cache, blocks=[blocks[row]]), strict=True):
            expected = readings(alone)
            for name, values in readings(seen).items():
                torch.testing.assert_close(
                    values[row], expected[name][0], msg=lambda text, name=name: f"{name}: {text}"
                )


def test_what_is_not_computed_stays_as_it_was(folder: Path) -> None:
    """Under the dual cache, the second block while the first is decoded, and the first while the second is."""
    found = [readings(view) for view in views(folder, PROMPTS, "dual")]
    for before, (step, now) in zip(found, enumerate(found[1:], start=1), strict=False):
        if step == 4:
            continue  # a block begins: everything is computed
        kept, new = (slice(4, 8), slice(0, 4)) if step < 4 else (slice(0, 4), slice(4, 8))
        for name, values in now.items():
            if name in ("age", "unseen"):
                continue
            assert torch.equal(values[:, kept], before[name][:, kept]), name
            if name in ("confidence", "hidden", "entropy"):
                assert not torch.equal(values[:, new], before[name][:, new]), name


def test_a_cache_that_computes_everything_shows_what_none_does(folder: Path) -> None:
    for seen, plain in zip(views(folder, PROMPTS, "dual:refresh=1"), views(folder, PROMPTS, "none"), strict=True):
        expected = readings(plain)
        for name, values in readings(seen).items():
            # Ages and tokens unseen are nought where everything is new.
            torch.testing.assert_close(values, expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("feature", ["token_probability", "entropy"])
def test_a_token_is_judged_in_the_next_forward(tmp_path: Path, family: str, feature: str) -> None:
    """Also the first of a block where the answer about it is the position's before it, which `dual` wouldn't compute.

    Without the reading nobody asks for that.
    """
    denoiser = load_denoiser(str(build(family, tmp_path)), str(places.here), family=family, chat_template=False)
    settings = DecodingSettings(8, 4, cache="dual", early_end=False, features=frozenset({feature}))
    batch = DecodingBatch(denoiser, 1, settings)
    batch.load([0], [PROMPTS[0]])
    batch.apply(Action(batch.forward().eligible))
    before, counted = batch.forward(), int(batch.token_positions)
    batch.apply(Action(torch.arange(8, device=places.here) == torch.full((1, 8), 4, device=places.here)))
    after = batch.forward()
    judges = feature == "token_probability"
    assert int(batch.token_positions) - counted == 4 + (judges and family == "dream")
    if judges:
        assert before.features[feature][0, 4] == 0
        assert 0 < after.features[feature][0, 4] < 1


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_states_of_half_precision_are_float32(folder: Path, cache: str) -> None:
    denoiser = load_denoiser(str(folder), str(places.here), family="llada", chat_template=False, dtype="bfloat16")
    batch = DecodingBatch(denoiser, 2, DecodingSettings(8, 4, cache=cache, features=READ))
    batch.load([0, 1], PROMPTS[:2])
    assert batch.forward().tensors["hidden"].dtype == torch.float32


@pytest.mark.parametrize(("cache", "feature"), [("none", "hidden"), ("dual", "hidden"), ("none", "attention")])
def test_what_lies_behind_the_buffer_is_shown_to_the_dllm_alone(folder: Path, cache: str, feature: str) -> None:
    """A truncated window shows a whole last block, here positions 5 to 8 of a buffer of 6; no cache gives attention."""
    denoiser = load_denoiser(str(folder), str(places.here), family="llada", chat_template=False)
    shown: dict[str, Any] = {"window": "truncated", "block_origin": "absolute", "early_end": False}
    batch = DecodingBatch(denoiser, 1, DecodingSettings(6, 4, cache=cache, features=frozenset({feature}), **shown))
    batch.load([0], [PROMPTS[0]])
    batch.apply(Action(batch.forward().eligible))
    positions = int(batch.token_positions)
    batch.apply(Action(batch.forward().eligible))
    # A prompt of 3: blocks end at 1, 5 and 9 of the buffer.
    view = batch.forward()
    assert int(view.block_start) == 5
    assert int(batch.token_positions) - positions == (3 + 5) + (3 + 9)
    assert view.confidence.shape == (1, 6)
    assert view.tensors[feature].shape[1:2] == (6,)


def test_attention_leaves_other_readings(folder: Path) -> None:
    denoiser = load_denoiser(str(folder), str(places.here), family="llada", chat_template=False)
    both, alone = frozenset({"attention", "token_probability"}), frozenset({"token_probability"})
    seen = []
    for features in (both, alone):
        batch = DecodingBatch(denoiser, 2, DecodingSettings(8, 4, features=features))
        batch.load([0, 1], PROMPTS[:2])
        seen.append({**(view := batch.forward()).features, **view.tensors})
    torch.testing.assert_close(seen[0]["token_probability"], seen[1]["token_probability"])
