"""Pictures of one row of a decoding batch: committed tokens by their confidence, masks as blanks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.decoding.batch import DecodingBatch

RESET, DIM = "\x1b[0m", "\x1b[2m"
MASK_GLYPH = "·"


def ansi_color(confidence: float) -> str:
    r"""Return the escape code of a 256-colour terminal: red for low confidence, through yellow, to green.

    >>> ansi_color(0.0), ansi_color(1.0)
    ('\x1b[38;5;196m', '\x1b[38;5;46m')
    """
    step = round(10 * min(max(confidence, 0.0), 1.0))
    # A 256-colour terminal has a cube of 6 x 6 x 6 from colour 16 on: each part goes from 0 to 5.
    red, green = (5, step) if step <= 5 else (10 - step, 5)
    return f"\x1b[38;5;{16 + 36 * red + 6 * green}m"


def render_ansi(batch: DecodingBatch, row: int, prompt: str) -> str:
    """Draw a row as one coloured line of text: prompt and given tokens dim, the others by confidence, masks as dots."""
    strings = batch.denoiser.token_strings(batch.tokens(row))
    confidences, masked = batch.of_text(batch.commit_confidence, row), batch.of_text(batch.masked, row)
    known = batch.of_text(batch.given, row)
    words = [
        f"{DIM}{MASK_GLYPH if hidden else word}{RESET}" if hidden or given else f"{ansi_color(confidence)}{word}{RESET}"
        for word, confidence, hidden, given in zip(strings, confidences, masked, known, strict=True)
    ]
    return f"{DIM}{prompt}{RESET}\nNFE {int(batch.nfe[row]):>3}  {' '.join(words)}\n"


def render_rgb(batch: DecodingBatch, row: int, prompt: str) -> npt.NDArray[np.uint8]:
    """Draw a row as an image: a grid of 16 cells a line, each with its token on its confidence's colour.

    A given token stands on white.

    Returns:
        (H, W, 3) uint8.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    strings = batch.denoiser.token_strings(batch.tokens(row))
    confidences, masked = batch.of_text(batch.commit_confidence, row), batch.of_text(batch.masked, row)
    given = batch.of_text(batch.given, row)
    columns = min(16, len(strings))
    lines = -(-len(strings) // columns)
    figure = Figure(figsize=(0.6 * columns, 0.6 * lines + 0.6), dpi=80)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.9 - 0.3 / (lines + 1)))
    for i, (word, confidence, hidden) in enumerate(zip(strings, confidences, masked, strict=True)):
        corner = (i % columns, -(i // columns))
        plain = "0.9" if hidden else "white"
        face = plain if hidden or given[i] else colormaps["RdYlGn"](confidence)
        axes.add_patch(Rectangle(corner, 0.95, 0.95, color=face))
        if not hidden:
            axes.text(corner[0] + 0.47, corner[1] + 0.47, word, ha="center", va="center", fontsize=8)
    axes.set(xlim=(0, columns), ylim=(1 - lines, 1))
    axes.axis("off")
    figure.suptitle(f"NFE {int(batch.nfe[row])}   {prompt}", fontsize=8)
    # Without pyplot, which would keep every figure alive and choose a backend for the whole process.
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A copy, or the picture would keep the whole canvas alive.
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


RENDERERS: Mapping[str, Callable[[DecodingBatch, int, str], Any]] = MappingProxyType(
    {"ansi": render_ansi, "rgb_array": render_rgb}
)
"""What draws a row, by Gymnasium's name of the mode."""
