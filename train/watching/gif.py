"""Recordings as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from train.command.escaping import printable
from train.command.files import replaced
from train.watching.recording import Frame, Recording
from train.watching.show import Show


def draw_gif(show: Show, problem: int, file: Path, milliseconds: int = 900) -> None:
    """Draw a problem as an animation: the empty buffer, then one frame a step, the last one held.

    Args:
        show: the recordings.
        problem: which one.
        file: where to.
        milliseconds: of a frame.
    """
    last = max(recordings[problem].nfe for recordings in show.recordings)
    canvas = _Canvas(show, problem, last)
    images = [canvas.draw(step) for step in range(last + 1)]
    file.parent.mkdir(parents=True, exist_ok=True)
    durations = [milliseconds] * last + [5 * milliseconds]
    with replaced(file) as partial:
        images[0].save(partial, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


PANEL, CELL_HEIGHT, THIN, MARGIN = 704, 40, 10, 20
"""In pixels: a panel's width, and lines of its grid; those that never hold more than end-of-text are thin. Panels stand
one above the other, so that the letters are still large enough on a page that is as wide as a phone."""

SIDE_BY_SIDE = 4
"""Policies from which on there are two columns of panels."""

LONG_WORD = 4
"""Letters above which a quarter of the tokens makes cells twice as wide, as real models' words need."""

HEAD, PANEL_HEAD, PANEL_FOOT, LEGEND = 84, 40, 36, 44
"""Heights, in pixels."""

PAPER, INK, FAINT, LINE, FAINTER, REMASKED = "#ffffff", "#16181d", "#5b6370", "#d4d8e0", "#eef0f4", "#b4126f"
RIGHT, WRONG = "#16703a", "#b42318"


class _Canvas:
    """How one problem is laid out, and what draws it.

    Args:
        show: the recordings.
        problem: which one.
        last: steps of the slowest policy.
    """

    def __init__(self, show: Show, problem: int, last: int) -> None:
        self.show, self.last = show, last
        self.about = show.problems[problem]
        self.runs = [recordings[problem] for recordings in show.recordings]
        self.scores = [scores[problem] for scores in show.scores]
        length = show.config.buffer_length
        eos = show.denoiser.eos_id
        tokens = chain.from_iterable(run.tokens for run in self.runs)
        ids = [token for token in tokens if token != eos]
        lengths = sorted(map(len, show.denoiser.token_strings(ids)))
        is_wordy = bool(lengths) and lengths[3 * len(lengths) // 4] > LONG_WORD
        self.columns = min(8 if is_wordy else 16, length)
        self.cell_width = PANEL // self.columns
        lines = -(-length // self.columns)
        full = _last_word(self.runs, eos) // self.columns + 1
        self.tops = [min(line, full) * CELL_HEIGHT + max(line - full, 0) * THIN for line in range(lines + 1)]
        self.panel_height = PANEL_HEAD + self.tops[-1] + PANEL_FOOT
        self.across = 2 if len(self.runs) >= SIDE_BY_SIDE else 1
        down = -(-len(self.runs) // self.across)
        self.size = (self.across * (PANEL + MARGIN) + MARGIN, HEAD + down * self.panel_height + LEGEND)

    def draw(self, step: int) -> Any:
        """Draw one step of all policies, those that have finished as they ended."""
        from PIL import Image, ImageDraw  # matplotlib brings it

        image = Image.new("RGB", self.size, PAPER)
        draw = ImageDraw.Draw(image)
        width = self.size[0] - 2 * MARGIN
        about = self.about
        text = f"step {step} of {self.last}"
        draw.text((self.size[0] - MARGIN, 14), text, INK, _font(20, bold=True), anchor="ra")
        head = f"{self.show.config.model.name} · {about.task} · {about.split} problem {about.index}"
        room = width - draw.textlength(text, _font(20, bold=True)) - MARGIN
        draw.text((MARGIN, 14), _fitting(draw, head, _font(20, bold=True), room), INK, _font(20, bold=True))
        draw.text((MARGIN, 46), _fitting(draw, about.prompt, _font(18), width), FAINT, _font(18))
        for i in range(len(self.runs)):
            corner = (MARGIN + i % self.across * (PANEL + MARGIN), HEAD + i // self.across * self.panel_height)
            self._draw_panel(draw, i, step, corner)
        _draw_legend(draw, self.size[1] - LEGEND + 6, self.last, self.show.is_cached)
        return image

    def _draw_panel(self, draw: Any, i: int, step: int, corner: tuple[int, int]) -> None:
        left, top = corner
        run, is_done = self.runs[i], step >= self.runs[i].nfe
        frame, before = run.frames[min(step, run.nfe)], run.frames[max(0, min(step, run.nfe) - 1)]
        count = f"{frame.nfe} forward{'s' if frame.nfe != 1 else ''}"
        draw.text((left + PANEL, top + 6), count, INK, _font(20, bold=True), anchor="ra")
        # Room for the count of forwards on the right.
        name = _fitting(draw, self.show.players[i].name, _font(20, bold=True), PANEL - 200)
        draw.text((left, top + 6), name, INK, _font(20, bold=True))
        fresh = set(frame.committed) if step <= run.nfe else set()
        eos = self.show.denoiser.eos_id
        words, old = (self.show.denoiser.token_strings(one.tokens) for one in (frame, before))
        for p in range(self.show.config.buffer_length):
            line = p // self.columns
            x, y = left + p % self.columns * self.cell_width, top + PANEL_HEAD + self.tops[line]
            height = self.tops[line + 1] - self.tops[line]
            word = "eos" if frame.tokens[p] == eos else words[p]
            box = (x + 1, y + 1, x + self.cell_width - 2, y + height - 2)
            _draw_cell(draw, box, frame, p, (word, old[p]), p in fresh, self.last)
            if self.show.is_cached and step <= run.nfe and frame.computed[p]:
                _draw_computed(draw, box)
        if not is_done:
            return
        score, foot = self.scores[i], top + PANEL_HEAD + self.tops[-1] + 6
        if score is None:
            verdict, color = "no score", WRONG
        else:
            verdict, color = ("✓ right", RIGHT) if score >= 1 else (f"score {score:.3g}", WRONG)
        draw.text((left + PANEL, foot), verdict, color, _font(18, bold=True), anchor="ra")
        draw.text((left, foot), _fitting(draw, run.text, _font(18), PANEL - 160), INK, _font(18))


def _last_word(runs: Sequence[Recording], eos_id: int) -> int:
    """Return the last position that ever holds anything but end-of-text, 0 if there is none."""
    return max(
        i
        for run in runs
        for frame in run.frames
        for i, (token, masked) in enumerate(zip(frame.tokens, frame.masked, strict=True))
        # The first always counts, so that there is a largest one.
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
    # Step 0 is what was given or filled in: nobody decided it, so it stays grey.
    elif frame.commit_step[p]:
        fill = step_color(frame.commit_step[p], last)
        ink, edge = readable_on(fill), fill
    is_thin = bottom - top <= THIN
    frame_width = 3 if fresh and not is_thin else 1
    draw.rectangle(box, fill, INK if fresh else edge, frame_width)
    if not is_thin:
        size = 22 if len(word) <= 2 else 16
        font = _font(14 if word == "eos" else size)
        draw.text(middle, _fitting(draw, word, font, right - left - 4), ink, font, anchor="mm")
    if frame.remasked[p]:
        draw.line((left + 7, middle[1], right - 7, middle[1]), REMASKED, 2)
    if frame.masked[p] and frame.probability:
        draw.rectangle((left, bottom - 3, left + round(frame.probability[p] * (right - left)), bottom), "#1d6fd8")


def _draw_computed(draw: Any, box: tuple[int, int, int, int]) -> None:
    """Mark a cell whose position was computed in this step."""
    left, top, right, _ = box
    draw.rectangle((left, top, right, top + 4), INK, PAPER)


def _fitting(draw: Any, text: str, font: Any, width: float) -> str:
    """Return a text in one line, cut short where it is too wide."""
    # Nothing this narrow shows more, and measuring a very long text takes long.
    text = printable(text[:400])
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}…", font) > width:
        text = text[:-1]
    return f"{text}…"


def _draw_legend(draw: Any, top: int, last: int, is_cached: bool) -> None:
    draw.text((MARGIN, top), "committed at step", FAINT, _font(16))
    left = MARGIN + 176
    # At most a dozen colours or so fit beside the words, and the last step's is always one.
    for step in sorted({*range(1, last, -(-last // 12)), last}):
        color = step_color(step, last)
        draw.rectangle((left, top - 3, left + 27, top + 21), color)
        draw.text((left + 14, top + 9), str(step), readable_on(color), _font(14), anchor="mm")
        left += 28
    about = "framed: in this step" + (", black top: computed" if is_cached else "")
    draw.text((left + 16, top), about, FAINT, _font(16))


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
    # At 0.179 both stand out as much.
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else PAPER


def _font(size: int, bold: bool = False) -> Any:
    from matplotlib import get_data_path
    from PIL import ImageFont

    # matplotlib brings it, so a picture is the same on every machine.
    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), size)
