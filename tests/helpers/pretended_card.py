"""A graphics card that is not there: ``pytest -m gpu -p pretended_card`` runs the tests of one without it.

Its tensors lie in the CPU's memory and say that they are elsewhere. As with a real card, an operation on tensors of two
places is an error (but for single numbers, and what picks elements), and so is making an array of one; what is computed
is what the CPU computes. It shows a tensor that was made in the wrong place, and no difference in rounding or speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"

MOVES = ("_to_copy", "copy_")
PICKS = ("index", "index_put_", "_index_put_impl_", "_unsafe_index")
"""Their indices may lie in the CPU's memory."""


class Elsewhere(Tensor):
    """A tensor of the card; ``held`` is what it has, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, how: str) -> str:
        return format(self.cpu(), how)


def compute(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Do an operation on the CPU, and wrap what it gives if it would be on the card."""
    name = func.overloadpacket.__name__
    tensors: list[Tensor] = []

    def here(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
        return held_by(value)

    own, named = each(here, args), {key: each(here, value) for key, value in kwargs.items()}
    is_here = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    if is_here and name not in (*MOVES, *PICKS):
        strays = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.ndim]
        if strays:
            raise RuntimeError(f"{func}: expected all tensors on {NAME}, found on the CPU some of shapes {strays}")
    found = func(*own, **named)
    if name == "copy_":
        return args[0]
    goes_to = kwargs.get("device")
    if name == "_local_scalar_dense" or (goes_to is not None and not is_the_card(goes_to)):
        return found
    if goes_to is None and not is_here:
        return found
    wrapped = each(lambda value: Elsewhere(value) if isinstance(value, Tensor) else value, found)
    # What is a view of what, and what is written in place, is as without the wrapping.
    corrects = is_here and name not in MOVES and has_aliases(func)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if corrects else wrapped


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """Change a value, or those in a list or tuple of them; what torch has for any nesting takes half of a test."""
    if isinstance(value, list | tuple):
        return type(value)([each(change, one) for one in value])
    return change(value)


@cache
def has_aliases(func: Any) -> bool:
    """Tell whether what an operation gives may share memory with what it takes."""
    schema = func._schema
    return any(one.alias_info is not None for one in (*schema.arguments, *schema.returns))


def held_by(value: Any) -> Any:
    """Return what the CPU is to take for an argument."""
    if isinstance(value, Elsewhere):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and is_the_card(value) else value


library = torch.library.Library("_", "IMPL")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Pretend, before anything of ours is imported."""
    _setup_privateuseone_for_python_backend(NAME)
    library.fallback(compute, "PrivateUse1")
    # torch.tensor fills the CPU's memory first, and then moves what it filled by an operation that can be seen.
    torch._C._set_only_lift_cpu_tensors(True)
    # As on a real card, a module that moves keeps its parameters, which an optimiser may have already.
    torch.__future__.set_swap_module_params_on_conversion(True)
    # Inference mode counts no versions, which views of wrapped tensors need.
    vars(torch)["inference_mode"] = torch.no_grad


def pytest_configure() -> None:
    """Let weights be read to the CPU: safetensors knows the devices by name."""
    from envs.models import weights

    there: Any = weights.safe_open
    vars(weights)["safe_open"] = lambda file, framework, device: there(
        file, framework, "cpu" if is_the_card(device) else device
    )


def is_the_card(device: Any) -> bool:
    """Tell whether a device, or its name, is the card."""
    return torch.device(device).type == NAME
