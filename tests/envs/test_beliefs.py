from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from envs.beliefs import DenoiserError, read_beliefs
from envs.readings import READINGS

MASK, EOS, V = 5, 2, 11
ALL = frozenset(name for name, reading in READINGS.items() if reading.of == "logits")


def probabilities(logits: Tensor) -> npt.NDArray[np.float64]:
    """Float64 softmax with the mask token taken out (its probability is 0)."""
    x = logits.double().numpy().copy()
    x[..., MASK] = -np.inf
    x = np.exp(x - x.max(-1, keepdims=True))
    normalised: npt.NDArray[np.float64] = x / x.sum(-1, keepdims=True)
    return normalised


def random_logits(scale: float = 3.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (scale * torch.randn(4, 7, V, generator=torch.Generator().manual_seed(0))).to(dtype)


def slices(noise: Tensor | None) -> Callable[[slice, slice], Tensor] | None:
    """Hand noise out piece by piece."""
    return None if noise is None else lambda rows, positions: noise[rows, positions]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 3.0, 1000.0])
def test_against_float64_softmax(scale: float, dtype: torch.dtype) -> None:
    logits = random_logits(scale, dtype)
    beliefs, p = read_beliefs(logits, MASK, (EOS,), ALL), probabilities(logits)
    top = np.sort(p, -1)
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)
    expected = {"margin": top[..., -1] - top[..., -2], "entropy": entropy, "eos_probability": p[..., EOS]}
    expected["logit_gap"] = np.diff(np.sort(np.delete(logits.double().numpy(), MASK, -1), -1)[..., -2:])[..., 0]
    assert beliefs.confidence.numpy() == pytest.approx(p.max(-1), abs=2e-6)
    assert np.take_along_axis(p, beliefs.prediction.numpy()[..., None], -1)[..., 0] == pytest.approx(p.max(-1))
    assert beliefs.features.keys() == expected.keys()
    for name, values in expected.items():
        assert beliefs.features[name].numpy() == pytest.approx(values, abs=5e-6, rel=1e-5), name
    assert {beliefs.confidence.dtype, *(values.dtype for values in beliefs.features.values())} == {torch.float32}
    assert beliefs.prediction.dtype == torch.int64


def test_hand_computed() -> None:
    # Probabilities 1/2, 3/10, 1/5 of tokens 0, 1 and end-of-text; the mask's logit is the greatest of all.
    logits = torch.full((1, 1, V), -torch.inf)
    logits[..., [0, 1, EOS, MASK]] = torch.tensor([0.5, 0.3, 0.2, 9.0]).log()
    beliefs = read_beliefs(logits, MASK, (EOS,), ALL)
    assert beliefs.prediction.item() == 0
    assert beliefs.confidence.item() == pytest.approx(0.5)
    assert beliefs.features["margin"].item() == pytest.approx(0.2)
    assert beliefs.features["eos_probability"].item() == pytest.approx(0.2)
    entropy = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2))
    assert beliefs.features["entropy"].item() == pytest.approx(entropy)


def test_mask_is_never_predicted() -> None:
    logits = random_logits()
    noise = torch.zeros_like(logits)
    logits[..., MASK], noise[..., MASK] = 1e4, 1e6
    for beliefs in (read_beliefs(logits, MASK, (EOS,)), read_beliefs(logits, MASK, (EOS,), noise=slices(noise))):
        assert not (beliefs.prediction == MASK).any()
        assert (beliefs.confidence > 0).all()


def test_mask_logit_changes_nothing() -> None:
    logits = random_logits()
    other = logits.clone()
    other[..., MASK] += 50
    one, two = read_beliefs(logits, MASK, (EOS,), ALL), read_beliefs(other, MASK, (EOS,), ALL)
    assert torch.equal(one.confidence, two.confidence)
    assert all(torch.equal(one.features[name], two.features[name]) for name in ALL)


def test_noise_moves_the_prediction_but_not_its_probability() -> None:
    logits, noise = random_logits(), 4 * random_logits().roll(3, dims=-1)
    beliefs, p = read_beliefs(logits, MASK, (EOS,), ALL, slices(noise)), probabilities(logits)
    noisy = (logits + noise).numpy()
    noisy[..., MASK] = -np.inf
    assert np.array_equal(beliefs.prediction.numpy(), noisy.argmax(-1))
    chosen = np.take_along_axis(p, beliefs.prediction.numpy()[..., None], -1)[..., 0]
    assert beliefs.confidence.numpy() == pytest.approx(chosen, abs=2e-6)
    quiet = read_beliefs(logits, MASK, (EOS,), ALL)
    assert (beliefs.prediction != quiet.prediction).any()
    assert all(torch.equal(beliefs.features[name], quiet.features[name]) for name in ALL)


def test_only_what_is_asked_for_and_input_kept() -> None:
    logits = random_logits()
    before = logits.clone()
    assert read_beliefs(logits, MASK, (EOS,)).features == {}
    # Names that decoding adds itself are passed over.
    assert read_beliefs(logits, MASK, (EOS,), frozenset({"margin", "is_eos"})).features.keys() == {"margin"}
    assert torch.equal(logits, before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("noisy", [False, True])
def test_one_bad_logit_raises(bad: float, noisy: bool) -> None:
    logits = random_logits()
    logits[2, 3, 4] = bad
    noise = torch.zeros_like(logits) if noisy else None
    with pytest.raises(DenoiserError, match=r"row 2, buffer position 3"):
        read_beliefs(logits, MASK, (EOS,), noise=slices(noise))


def test_no_finite_logit_raises() -> None:
    logits = random_logits()
    logits[1, 0] = -torch.inf
    with pytest.raises(DenoiserError, match=r"row 1, buffer position 0"):
        read_beliefs(logits, MASK, (EOS,))
    logits[1, 0, MASK] = 0.0  # the mask token alone is nothing to go on from
    with pytest.raises(DenoiserError):
        read_beliefs(logits, MASK, (EOS,))


@pytest.mark.parametrize("chunk", [1, V, 3 * V, 7 * V, 20 * V])
def test_pieces_change_no_number(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    logits, noise = random_logits(dtype=torch.bfloat16), 4 * random_logits().roll(3, dims=-1)
    everything = ALL | {"top", "probabilities", "best_probabilities", "token_probability"}
    standing = random_logits().argmin(-1)
    whole = read_beliefs(logits, MASK, (EOS, 7), everything, slices(noise), standing)
    monkeypatch.setattr("envs.beliefs.CHUNK", chunk)
    pieces = read_beliefs(logits, MASK, (EOS, 7), everything, slices(noise), standing)
    assert torch.equal(whole.confidence, pieces.confidence)
    assert torch.equal(whole.prediction, pieces.prediction)
    assert whole.features.keys() == ALL | {"token_probability"}
    assert whole.tensors.keys() == {"top_probabilities", "top_ids", "probabilities", "best_probabilities"}
    for one, two in ((whole.features, pieces.features), (whole.tensors, pieces.tensors)):
        assert all(torch.equal(values, two[name]) for name, values in one.items())
    p = probabilities(logits)
    assert whole.tensors["probabilities"].numpy() == pytest.approx(p, abs=5e-6)
    assert whole.tensors["top_ids"][..., 0].equal(whole.tensors["probabilities"].argmax(-1))
    at_standing = whole.tensors["probabilities"].gather(-1, standing.unsqueeze(-1)).squeeze(-1)
    assert torch.equal(whole.features["token_probability"], at_standing)


@pytest.mark.parametrize("chunk", [1, 3 * V, 100 * V])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_positions_that_are_not_asked_about_are_0(monkeypatch: pytest.MonkeyPatch, chunk: int, share: float) -> None:
    monkeypatch.setattr("envs.beliefs.CHUNK", chunk)
    logits, everything = random_logits(dtype=torch.bfloat16), ALL | {"top", "probabilities"}
    about = torch.rand(4, 7, generator=torch.Generator().manual_seed(1)) < share
    whole = read_beliefs(logits, MASK, (EOS,), everything)
    some = read_beliefs(logits, MASK, (EOS,), everything, about=about)
    assert torch.equal(some.confidence, whole.confidence * about)
    assert torch.equal(some.prediction, whole.prediction * about)
    assert some.features.keys() == whole.features.keys()
    assert some.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(values, whole.features[name] * about) for name, values in some.features.items())
    assert all(torch.equal(values, whole.tensors[name] * about.unsqueeze(-1)) for name, values in some.tensors.items())


def test_a_bad_logit_is_named_by_its_own_place() -> None:
    logits, about = random_logits(), torch.zeros(4, 7, dtype=torch.bool)
    logits[2, 3, 4] = logits[1, 1, 1] = torch.nan
    about[2] = True
    with pytest.raises(DenoiserError, match=r"row 2, buffer position 3"):
        read_beliefs(logits, MASK, (EOS,), about=about)


def test_every_end_token_counts() -> None:
    logits = random_logits()
    p = probabilities(logits)
    beliefs = read_beliefs(logits, MASK, (EOS, 7), ALL)
    assert beliefs.features["eos_probability"].numpy() == pytest.approx(p[..., EOS] + p[..., 7], abs=5e-6)
