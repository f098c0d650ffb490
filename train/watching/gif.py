"""Recordings as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.watching.recording import Frame, Recording
from train.watching.show import Show
from train.watching.terminal import printable


def draw_gif(show: Show, problem: int, file: Path, milliseconds: int = 900) -> None:
    """Draw a problem as an animation, one frame a step, the last one held.

    Args:
        show: the recordings.
        problem: which one.
        file: where to.
        milliseconds: of a frame.
    """
    last = max(recordings[problem].nfe for recordings in show.recordings)
    images = [_draw(show, problem, step, last) for step in range(1, last + 1)]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".tmp")
    durations = [milliseconds] * (last - 1) + [4 * milliseconds]
    images[0].save(partial, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    partial.replace(file)


CELL_WIDTH, CELL_HEIGHT, THIN, MARGIN = 42, 34, 14, 24
"""Of the animation, in pixels; lines of the grid that never hold more than end-of-text are thin."""

PAPER, INK, FAINT, LINE, FAINTER, REMASKED = "#ffffff", "#16181d", "#6b7280", "#d4d8e0", "#eef0f4", "#b4126f"


def _draw(show: Show, problem: int, step: int, last: int) -> Any:
    """Draw one step of all policies, those that have finished as they ended."""
    from PIL import Image, ImageDraw  # matplotlib brings it

    runs, about = [recordings[problem] for recordings in show.recordings], show.problems[problem]
    length = show.config.buffer_length
    columns = min(8 if len(runs) > 2 else 16, length)
    lines, full = -(-length // columns), _last_word(runs, show.denoiser.eos_id) // columns + 1
    tops = [136 + min(line, full) * CELL_HEIGHT + max(line - full, 0) * THIN for line in range(lines + 1)]
    panel = columns * CELL_WIDTH
    image = Image.new("RGB", (len(runs) * (panel + MARGIN) + MARGIN, tops[-1] + 96), PAPER)
    draw = ImageDraw.Draw(image)
    head = f"{show.config.model} · {about.task} · {about.split} problem {about.index}"
    draw.text((MARGIN, 16), f"{head}     step {step} of {last}", INK, _font(18, bold=True))
    draw.text((MARGIN, 44), _fitting(draw, printable(about.prompt), _font(14), image.width), FAINT, _font(14))
    for i, (player, run) in enumerate(zip(show.players, runs, strict=True)):
        left, frame, before = MARGIN + i * (panel + MARGIN), run.frames[min(step, run.nfe)], run.frames[step - 1 :][:1]
        draw.text((left, 80), player.name, INK, _font(16, bold=True))
        draw.text((left, 106), f"NFE {frame.nfe}   token positions {frame.token_positions}", FAINT, _font(13))
        if step >= run.nfe:
            text = _fitting(draw, printable(run.text), _font(14, bold=True), panel)
            draw.text((left, tops[-1] + 12), text, INK, _font(14, bold=True))
            draw.text((left, tops[-1] + 32), f"score {show.scores[i][problem]:g}", FAINT, _font(13))
        fresh = set(frame.committed) if step <= run.nfe else set()
        words = show.denoiser.token_strings(frame.tokens)
        old = show.denoiser.token_strings(before[0].tokens if before else frame.tokens)
        for p in range(length):
            line = p // columns
            x = left + p % columns * CELL_WIDTH
            word = "eos" if frame.tokens[p] == show.denoiser.eos_id else words[p]
            box = (x + 1, tops[line] + 1, x + CELL_WIDTH - 2, tops[line + 1] - 2)
            _draw_cell(draw, box, frame, p, (word, old[p]), p in fresh, last)
    _draw_legend(draw, tops[-1] + 66, last)
    return image


def _last_word(runs: Sequence[Recording], eos_id: int) -> int:
    """Return the last position that ever holds anything but end-of-text, 0 if there is none."""
    return max(
        i
        for run in runs
        for frame in run.frames
        for i, (token, masked) in enumerate(zip(frame.tokens, frame.masked, strict=True))
        if i == 0 or not (masked or token == eos_id)
    )


def _draw_cell(
    draw: Any, box: tuple[int, int, int, int], frame: Frame, p: int, words: tuple[str, str], fresh: bool, last: int
) -> None:
    left, top, right, bottom = box
    middle = ((left + right) / 2, (top + bottom) / 2)
    word, ink, fill, edge = words[0], FAINT, LINE, LINE
    if frame.remasked[p]:
        word, ink, fill, edge = words[1], REMASKED, PAPER, REMASKED
    elif frame.masked[p]:
        word, fill, edge = "", PAPER, LINE if frame.eligible[p] else FAINTER
    elif frame.commit_step[p]:
        fill = step_color(frame.commit_step[p], last)
        ink, edge = readable_on(fill), fill
    draw.rectangle(box, fill, INK if fresh else edge, 3 if fresh and bottom - top > THIN else 1)
    if bottom - top > THIN:
        font = _font(12 if word == "eos" else 14)
        draw.text(middle, _fitting(draw, printable(word), font, right - left - 4), ink, font, anchor="mm")
    if frame.remasked[p]:
        draw.line((left + 7, middle[1], right - 7, middle[1]), REMASKED, 2)
    if frame.masked[p] and frame.probability:
        draw.rectangle((left, bottom - 3, left + round(frame.probability[p] * (right - left)), bottom), "#1d6fd8")


def _fitting(draw: Any, text: str, font: Any, width: int) -> str:
    """Return a text, cut short where it is too wide."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}…", font) > width:
        text = text[:-1]
    return f"{text}…"


def _draw_legend(draw: Any, top: int, last: int) -> None:
    draw.text((MARGIN, top), "committed at step", FAINT, _font(13))
    left = MARGIN + 150
    for step in sorted({*range(1, last, -(-last // 16)), last}):
        color = step_color(step, last)
        draw.rectangle((left, top - 3, left + 25, top + 18), color)
        draw.text((left + 13, top + 8), str(step), readable_on(color), _font(12), anchor="mm")
        left += 26
    draw.text((left + 20, top), "black frame: in this step", FAINT, _font(13))


def step_color(step: int, last: int) -> str:
    """Return the colour of a commit step: dark blue for the first, through green, to yellow for the last.

    >>> step_color(1, 10), step_color(10, 10)
    ('#472e7c', '#f8e621')
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    # Early steps lie further apart: that is where policies differ.
    share = ((step - 1) / max(1, last - 1)) ** 0.7
    color: str = to_hex(colormaps["viridis"](0.13 + 0.86 * share))
    return color


def readable_on(color: str) -> str:
    """Return black or white, whichever stands out more from a colour (WCAG's relative luminance).

    >>> readable_on("#472e7c"), readable_on("#f8e621")
    ('#ffffff', '#000000')
    """
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else PAPER


def _font(size: int, bold: bool = False) -> Any:
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), size)
