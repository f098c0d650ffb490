"""What every test shares: one thread, compiled packages, which tests are quick, and which come first."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported, and for the processes that tests start: they share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where Python is told to keep no bytecode, each of these processes would compile all of the packages anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest

# Nothing of ours nor torch: with -n the process that only hands tests out reads this file too, before any other starts.
if TYPE_CHECKING:
    import torch

    from envs.models.toy import ToyDenoiser

TRAIN = Path(__file__).parent / "train"

sys.dont_write_bytecode = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cases that `each_value` leaves to the slow tests, put the longest first, and leave out a missing card's.

    Two processes that take from one queue end together only if no long test is among the last.
    """
    import places

    if places.card() is None:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("gpu")])
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    cases: dict[str, list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("each_value"):
            place = item.callspec.params.get("device", "")
            cases.setdefault(f"{item.nodeid.partition('[')[0]} {place}", []).append(item)
    for family in cases.values():
        for item in beyond_each_value(family):
            item.add_marker(pytest.mark.slow)
    # After them those that start commands and train, of which many take seconds; the rest is over in a moment each.
    items.sort(key=lambda item: (-seconds_of(item), TRAIN not in item.path.parents))


def pytest_collection_finish() -> None:
    """Leave what is there for good, modules and tests, to no further garbage collection: each would take half a second.

    There are two million such objects, and tests that weigh memory, as pytest at its end, collect several times.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A command that runs a file as Python does, and starts sooner; see `warm`."""
    from warm import bin_folder

    session = tmp_path_factory.getbasetemp()
    shared = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session
    return str(bin_folder(shared / "warm") / "python")


def beyond_each_value(family: Sequence[pytest.Function]) -> list[pytest.Function]:
    """Return the cases of a test that a few others make up for: together they show each value of each parameter."""
    left, shown = list(family), set[tuple[str, int]]()
    while left:
        best = max(left, key=lambda item: len(values_of(item) - shown))
        if values_of(best) <= shown:
            break
        shown |= values_of(best)
        left.remove(best)
    return left


def values_of(item: pytest.Function) -> set[tuple[str, int]]:
    """Return the parameters of a case, each with the identity of its value: not all of them can be hashed."""
    return {(name, id(value)) for name, value in item.callspec.params.items() if name != "device"}


def seconds_of(item: pytest.Item) -> float:
    """Return what a long test says that it takes."""
    return max((mark.kwargs.get("seconds", 0.0) for mark in item.iter_markers("slow")), default=0.0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(params=["cpu", pytest.param("card", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where a test decodes and learns: the CPU always, and a graphics card where there is one."""
    import places
    import torch

    found = torch.device("cpu") if request.param == "cpu" else places.card()
    assert found is not None
    monkeypatch.setattr(places, "here", found)
    return found


@pytest.fixture
def toy(device: torch.device) -> ToyDenoiser:
    from envs.models.toy import ToyDenoiser

    return ToyDenoiser(device)
