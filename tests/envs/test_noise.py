from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from envs.noise import _mix, gumbel, sample_seed, sequence_key, uniform

N = 20_000


def draw(
    keys: list[int] | torch.Tensor, step: int = 0, shape: tuple[int, ...] = (1,), stream: int = 0
) -> npt.NDArray[np.float64]:
    keys = torch.as_tensor(keys)
    numbers: npt.NDArray[np.float64] = uniform(keys, torch.full_like(keys, step), shape, stream).numpy()
    return numbers


KEYS = torch.tensor([sequence_key([n, 5], seed=0) for n in range(N)])


@pytest.mark.parametrize("sampler", [uniform, gumbel])
def test_row_does_not_depend_on_its_batch(sampler: type) -> None:
    keys, steps = torch.tensor([11, 2**62, 0, 11]), torch.tensor([0, 3, 9, 1])
    batch = sampler(keys, steps, (4, 3))
    assert batch.shape == (4, 4, 3)
    assert batch.dtype == torch.float64
    for i in range(4):
        assert torch.equal(sampler(keys[i : i + 1], steps[i : i + 1], (4, 3))[0], batch[i])
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(sampler(keys[order], steps[order], (4, 3)), batch[order])
    assert not torch.equal(batch[0], batch[3])  # same key, another step


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(draw([7], shape=(100, 200)).ravel(), id="positions"),
        pytest.param(draw(KEYS).ravel(), id="sequences"),
        pytest.param(draw(list(range(N))).ravel(), id="small keys"),
        pytest.param(uniform(torch.full((N,), 7), torch.arange(N), (1,)).numpy().ravel(), id="steps"),
        pytest.param(np.ravel([draw([7], shape=(100,), stream=s) for s in range(200)]), id="streams"),
    ],
)
def test_uniform(numbers: npt.NDArray[np.float64]) -> None:
    assert numbers.size == N
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert len(np.unique(numbers)) > 0.99 * N


@pytest.mark.parametrize(
    ("one", "two"),
    [
        pytest.param(draw(KEYS, step=0), draw(KEYS, step=1), id="steps"),
        pytest.param(draw(KEYS, stream=0), draw(KEYS, stream=1), id="streams"),
        pytest.param(draw(KEYS, step=1, stream=0), draw(KEYS, step=0, stream=1), id="step against stream"),
        pytest.param(draw(KEYS, shape=(2,))[:, 0], draw(KEYS, shape=(2,))[:, 1], id="positions"),
        pytest.param(draw(KEYS, step=1), draw(KEYS, shape=(2,))[:, 1], id="step against position"),
        pytest.param(draw(list(range(N))), draw(list(range(1, N + 1))), id="next key"),
    ],
)
def test_independent(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> None:
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 4 / np.sqrt(N)
    cells = np.histogram2d(one.ravel(), two.ravel(), bins=8, range=((0, 1), (0, 1)))[0]
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_extremes_stay_inside(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.noise._mix", lambda x: np.full_like(x, bits))
    key, step = torch.tensor([1]), torch.tensor([1])
    assert 0 < uniform(key, step, (1,)).item() < 1
    assert gumbel(key, step, (1,)).isfinite().all()


@pytest.mark.parametrize(("bits", "below_one"), [(2**64 - 1, 2.0**-53), (2**64 - 2**20, 2.0**-44), (2**63, 0.5)])
def test_noise_reaches_as_far_as_53_bits_do(bits: int, below_one: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 23 bits no noise exceeds 16.6, and a tail of 0.1 % of a vocabulary of 126,464 is never drawn."""
    monkeypatch.setattr("envs.noise._mix", lambda x: np.full_like(x, bits))
    key, step = torch.tensor([1]), torch.tensor([1])
    assert 1 - uniform(key, step, (1,)).item() == pytest.approx(below_one, rel=0.01)
    assert gumbel(key, step, (1,)).item() == pytest.approx(-np.log(-np.log1p(-below_one)), abs=0.01)


@pytest.mark.parametrize("tail", [0.01, 0.001, pytest.param(0.0001, marks=pytest.mark.slow)])
def test_a_rare_tail_of_a_large_vocabulary_is_drawn_as_often_as_it_should(
    tail: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One likely token, and all others of 126,464 share the rest; of those only the largest noise matters.

    Its bits are drawn from the known distribution of a largest of many, so a draw costs two numbers, not a vocabulary.
    Noise of 24 bits draws a tail of 1 % in 0.9 %, one of 0.1 % hardly ever.
    """
    draws, others = int(1000 / tail), 126_463
    generator = np.random.default_rng(7)
    one = generator.integers(0, 2**53, draws, dtype=np.uint64)
    # 1 - u^(1/n), without the rounding of a number near 1.
    gap = -np.expm1(np.log(generator.random(draws)) / others)
    best = np.uint64(2**53 - 1) - np.minimum(gap * 2.0**53, 2.0**53 - 1).astype(np.uint64)
    bits = np.stack([one, best], 1) << np.uint64(11)
    monkeypatch.setattr("envs.noise._mix", lambda x: bits if x.ndim == 2 else x)
    steps = torch.zeros(draws, dtype=torch.long)
    noise = gumbel(steps, steps, (2,)).numpy()
    logits = np.log([1 - tail, tail / others])
    # The logits of a dLLM are float32, the noise that is added is not.
    drawn = int(((logits + noise).argmax(1) == 1).sum())
    assert abs(drawn - 1000) < 4 * 1000**0.5


def test_no_two_of_a_million_draws_are_equal() -> None:
    numbers = draw([5], shape=(1_000_000,)).ravel()  # of 23 bits, 60,000 would be
    assert len(np.unique(numbers)) == numbers.size


def test_samples_of_a_prompt_have_seeds_of_their_own() -> None:
    seeds = [sample_seed(seed, sample) for seed in range(20) for sample in range(50)]
    assert len(set(seeds)) == 1000
    assert [sample_seed(seed, 0) for seed in range(20)] == list(range(20))
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_longer_draw_extends_a_shorter_one() -> None:
    assert np.array_equal(draw([3], shape=(9,))[:, :4], draw([3], shape=(4,)))


def test_gumbel() -> None:
    numbers = gumbel(torch.tensor([1, 2]), torch.tensor([0, 0]), (50, 1000)).numpy().ravel()
    assert np.isfinite(numbers).all()
    assert numbers.mean() == pytest.approx(0.5772, abs=0.02)
    assert numbers.var() == pytest.approx(np.pi**2 / 6, abs=0.05)
    assert stats.kstest(numbers, "gumbel_r").pvalue > 1e-3


def test_sequence_key() -> None:
    keys = [sequence_key(prompt, seed) for prompt in ([1, 2], [2, 1], [1], [0, 1, 2]) for seed in (0, 1, -1)]
    assert len(set(keys)) == 12
    assert all(0 <= key < 2**63 for key in keys)
    assert sequence_key((1, 2), 0) == keys[0]
    assert len(set(KEYS.tolist())) == N


@pytest.mark.parametrize("draw", [uniform, gumbel])
def test_a_part_of_a_draw_is_that_part(draw: Any) -> None:
    keys, steps = torch.tensor([3, 2**40]), torch.tensor([1, 7])
    whole = draw(keys, steps, (6, 5))
    assert torch.equal(draw(keys[1:], steps[1:], (2, 5), skip=3 * 5), whole[1:, 3:5])
    # Each position's numbers from a place of its own.
    place = torch.tensor([[4, 0], [2, 2]])
    assert torch.equal(draw(keys, steps, (2, 5), skip=place * 5), whole[torch.arange(2)[:, None], place])


def test_the_mixer_is_that_of_splitmix64() -> None:
    """Its first outputs from seed 0, as published: the seed grows by the golden ratio, and is mixed."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    with np.errstate(over="ignore"):
        states = np.arange(1, 5, dtype=np.uint64) * golden
        assert _mix(states).tolist() == published


KEY, SEED = 9202368862838562091, 8821786389460783715
UNIFORM = [[0.9909274014256704, 0.19610794222838918], [0.43274492759272126, 0.42563217802862946]]


def test_the_numbers_of_a_seed_are_these() -> None:
    """Another version of the library must draw the same: results name their seed."""
    assert sequence_key([5, 7], 3) == KEY
    assert sequence_key([], 0) != sequence_key([0], 0)
    assert sample_seed(3, 2) == SEED
    keys, steps = torch.tensor([KEY, 1]), torch.tensor([4, 0])
    plain = uniform(keys, steps, (2,))
    assert plain.tolist() == UNIFORM
    assert torch.equal(uniform(keys, steps, (2,), stream=0), plain)
    assert torch.equal(gumbel(keys, steps, (2,)), -(-uniform(keys, steps, (2,), stream=1).log()).log())
