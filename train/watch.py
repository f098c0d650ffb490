"""Watch policies decode: one HTML page with the buffer step by step, policies side by side, and their commit order.

``python train/watch.py --policy threshold:0.9 --policy runs/ppo/policy --task replace`` writes ``watch.html`` to the
run's folder: a slider over the steps of the same problems under each policy, what the policies' probabilities were, and
a heat map of when each position is committed. The file needs nothing but a browser. ``--format gif`` writes one
animation a problem instead; ``--format ansi`` prints to the terminal and writes nothing.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.text import Text

from envs.decoding import DecodingSettings
from envs.denoiser import Denoiser, load_denoiser
from envs.render import DIM, MASK_GLYPH, RESET, ansi_color
from envs.tasks import Problem, Split, make_tasks
from policies import RULES, LearnedPolicy, UnmaskingPolicy, load
from train.config import to_yaml
from train.evaluate import plan, score_problems
from train.progress import progress
from train.recording import CommitOrder, Frame, Recording, commit_order, record
from train.run_folder import UserError, open_run, write_atomic

TEMPLATE = Path(__file__).with_name("watch.html")

MOST_POLICIES = 6
"""Policies that still fit side by side."""

SCALE = 10_000
"""Confidences and probabilities are whole ten-thousandths in the page, which halves its size."""

BOLD, STRUCK = "\x1b[1;4m", "\x1b[9;35m"


@dataclass(frozen=True)
class WatchConfig:
    """What `python train/watch.py` does."""

    policy: list[str] = field(default_factory=lambda: ["low_confidence:4", "threshold:0.9"])
    """Rules as name:knob,option=value, or folders of exported policies, as python train/evaluate.py takes them; a plain
    folder decides as it was saved to. list prints the rules' names."""
    task: str = "replace"
    """Task by name, or suite for one problem of each in turn."""
    format: Literal["html", "gif", "ansi"] = "html"
    """html: one page; gif: an animation a problem; ansi: print to the terminal and write nothing."""
    out: Path = Path("runs/watch")
    """Folder for the page or the animations; it must be new or empty."""
    model: str = "tiny"
    """The dLLM: a checkpoint folder or the name of one that ships."""
    split: Split = "test"
    """Problems to use: test, validation or train."""
    problems: int = 5
    """Problems to choose from in the page."""
    first: int = 0
    """Index of the first problem of the split."""
    heatmap_problems: int = 100
    """Problems that the heat map of the commit order counts; 0 leaves it out."""
    buffer_length: int = 64
    """Masks to start from."""
    block_length: int | None = None
    """Positions of a block; null is full diffusion."""
    end_of_text_prediction: bool = False
    """Drop everything after a committed end-of-text from the computation (EoTP)."""
    device: str = "cpu"
    """Torch device of the dLLM and the policies."""
    dtype: str = "float32"
    """Torch dtype of the dLLM."""
    threads: int = 1
    """Torch threads."""
    seed: int = 0
    """Of every random choice."""

    def __post_init__(self) -> None:
        for name, least in (("problems", 1), ("first", 0), ("heatmap_problems", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be {least} or more")
        if not 1 <= len(set(self.policy)) <= MOST_POLICIES:
            raise ValueError(f"policy names {len(set(self.policy))} policies: give 1 to {MOST_POLICIES}")
        DecodingSettings(self.buffer_length, self.block_length)


@dataclass(frozen=True)
class Player:
    """One policy to watch.

    Attributes:
        name: what the page calls it.
        policy: the policy.
    """

    name: str
    policy: UnmaskingPolicy

    def describe(self) -> dict[str, Any]:
        """Return what the page says about the policy."""
        learned = isinstance(self.policy, LearnedPolicy)
        threshold = self.policy.threshold if isinstance(self.policy, LearnedPolicy) else None
        sampled = self.policy.decision == "sample"
        return {
            "name": self.name,
            "kind": f"learned, {self.policy.decision}" if learned else "rule",
            "threshold": None if sampled else threshold,
        }


@dataclass(frozen=True)
class Show:
    """Everything there is to see: several policies on the same problems.

    Attributes:
        config: how it was made.
        denoiser: the frozen dLLM.
        players: the policies.
        problems: those of the page first, then more for the heat map.
        recordings: one list a player, one recording a problem.
        scores: likewise, in [0, 1].
    """

    config: WatchConfig
    denoiser: Denoiser
    players: list[Player]
    problems: list[Problem]
    recordings: list[list[Recording]]
    scores: list[list[float]]

    @property
    def title(self) -> str:
        """Say what is decoded and by whom, in one line."""
        return f"{self.config.model} · {self.config.task} · {self.config.split} — {self.versus}"

    @property
    def versus(self) -> str:
        """The policies' names."""
        return " vs ".join(player.name for player in self.players)


def choose_players(policies: Sequence[str], block_length: int, device: str = "cpu") -> list[Player]:
    """Build the policies to watch, for a block length.

    Raises:
        ValueError: if a rule is unknown, or it is the sweep of all rules.
        FileNotFoundError: if a folder holds no policy.
    """
    if "all" in policies:
        raise ValueError(f"policy is 'all': name 1 to {MOST_POLICIES} policies to watch")
    players: list[Player] = []
    for text, jobs in groupby(plan(policies, [block_length]), key=lambda job: job.policy):
        variants = list(jobs)
        # A plain folder stands for both decision rules; one panel shows the saved one.
        decision = load(text).decision if len(variants) > 1 else variants[0].decision
        players += [Player(job.name, job.make(device)) for job in variants if job.decision == decision]
    return players


def choose_problems(task: str, split: Split, first: int, count: int) -> list[Problem]:
    """Return problems of a task, or of all tasks in turn.

    Raises:
        ValueError: if the task is unknown.
    """
    tasks = make_tasks(task)
    return [tasks[i % len(tasks)].problem(split, first + i // len(tasks)) for i in range(count)]


def rehearse(config: WatchConfig) -> Show:
    """Decode all problems with all policies and record every step."""
    players = choose_players(config.policy, config.block_length or config.buffer_length, config.device)
    wanted = max(config.problems, config.heatmap_problems if config.format == "html" else 0)
    problems = choose_problems(config.task, config.split, config.first, wanted)
    denoiser = load_denoiser(config.model, config.device, config.dtype)
    settings = DecodingSettings(
        config.buffer_length, config.block_length, end_of_text_prediction=config.end_of_text_prediction
    )
    prompts, given = [problem.prompt for problem in problems], [problem.given for problem in problems]
    recordings = [
        record(denoiser, prompts, player.policy, settings, given=given, seed=config.seed)
        for player in progress(players, desc="recording", unit="policy")
    ]
    tasks = make_tasks(config.task)
    scores = [score_problems(tasks, problems, [run.text for run in runs]) for runs in recordings]
    return Show(config, denoiser, players, problems, recordings, scores)


# The page.


def page(show: Show) -> str:
    """Return the page: the template with the recordings in it, which stay data whatever their tokens are."""
    # All ASCII, so that no locale can spoil the file.
    title = html.escape(show.title).encode("ascii", "xmlcharrefreplace").decode()
    parts = {"title": title, "data": embed(page_data(show))}
    # In one pass, so that a token that looks like a placeholder is not one.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], TEMPLATE.read_text(encoding="utf-8"))


def embed(data: Any) -> str:
    r"""Write JSON that can stand inside a script element: no token can close it or open a comment.

    >>> embed(["</script>", "<!--", "a & b"])
    '["\\u003c/script\\u003e","\\u003c!--","a \\u0026 b"]'
    """
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def page_data(show: Show) -> dict[str, Any]:
    """Return all that the page shows, as JSON can hold it."""
    config, shown = show.config, show.config.problems
    problems = [
        {
            **{name: getattr(problem, name) for name in ("task", "index", "prompt", "answer")},
            "runs": [_run_data(runs[i], scores[i]) for runs, scores in zip(show.recordings, show.scores, strict=True)],
        }
        for i, problem in enumerate(show.problems[:shown])
    ]
    ids = sorted({i for runs in show.recordings for run in runs[:shown] for f in run.frames for i in _ids(f)})
    names = ("model", "task", "split", "seed", "buffer_length", "block_length", "end_of_text_prediction")
    return {
        **{name: getattr(config, name) for name in names},
        "scale": SCALE,
        "eos": show.denoiser.eos_id,
        "words": dict(zip(ids, show.denoiser.token_strings(ids), strict=True)),
        "players": [player.describe() for player in show.players],
        "problems": problems,
        "orders": [_order_data(show, i) for i in range(len(show.players))] if config.heatmap_problems else [],
    }


def _ids(frame: Frame) -> set[int]:
    return {*frame.tokens, *frame.prediction}


def _run_data(run: Recording, score: float) -> dict[str, Any]:
    frames = [_frame_data(frame) for frame in run.frames]
    return {"text": run.text, "score": score, "nfe": run.nfe, "positions": run.token_positions, "frames": frames}


def _frame_data(frame: Frame) -> dict[str, Any]:
    """Return a frame under short names: there are thousands of them."""

    def scaled(values: Sequence[float]) -> list[int]:
        return [round(SCALE * value) for value in values]

    def bits(values: Sequence[bool]) -> str:
        return "".join("01"[value] for value in values)

    return {
        "nfe": frame.nfe,
        "positions": frame.token_positions,
        "token": frame.tokens,
        "masked": bits(frame.masked),
        "step": frame.commit_step,
        "sure": scaled(frame.commit_confidence),
        "remasked": bits(frame.remasked),
        "eligible": bits(frame.eligible),
        "guess": frame.prediction,
        "belief": scaled(frame.confidence),
        "wish": None if frame.probability is None else scaled(frame.probability),
    }


def _order_data(show: Show, player: int) -> dict[str, Any]:
    count = show.config.heatmap_problems
    runs, scores = show.recordings[player][:count], show.scores[player][:count]
    order: CommitOrder = commit_order(runs)
    return {
        "counts": order.counts.tolist(),
        "filled": order.filled.tolist(),
        "problems": order.problems,
        "nfe": sum(run.nfe for run in runs) / count,
        "positions": sum(run.token_positions for run in runs) / count,
        "score": sum(scores) / count,
    }


# The terminal.


def ansi_frames(show: Show, problem: int) -> Iterator[str]:
    """Draw a problem step by step: at each step one block of text with a coloured line a policy."""
    about, runs = show.problems[problem], [recordings[problem] for recordings in show.recordings]
    yield f"{BOLD}{about.task} {about.split} {about.index}{RESET}  {about.prompt}\n{DIM}answer  {about.answer}{RESET}"
    width = max(len(player.name) for player in show.players)
    last = max(run.nfe for run in runs)
    for step in range(1, last + 1):
        lines = [f"step {step} of {last}"]
        for player, run in zip(show.players, runs, strict=True):
            k = min(step, run.nfe)
            frame, before = run.frames[k], run.frames[k - 1]
            counters = f"NFE {frame.nfe:>3}  positions {frame.token_positions:>6}"
            words = " ".join(_ansi_words(show.denoiser, frame, before, fresh=step <= run.nfe))
            lines.append(f"  {player.name:<{width}}  {DIM}{counters}{RESET}  {words}")
        yield "\n".join(lines)
    results = [
        f"  {player.name:<{width}}  score {scores[problem]:g}  NFE {run.nfe:>3}  {run.text}"
        for player, run, scores in zip(show.players, runs, show.scores, strict=True)
    ]
    yield "\n".join(["final", *results])


def _ansi_words(denoiser: Denoiser, frame: Frame, before: Frame, fresh: bool) -> Iterator[str]:
    """Yield the buffer's words, runs of the same one written once with their length."""
    strings, old = denoiser.token_strings(frame.tokens), denoiser.token_strings(before.tokens)
    new = set(frame.committed) if fresh else set()
    words: list[str] = []
    for i, word in enumerate(strings):
        if frame.remasked[i]:
            words.append(f"{STRUCK}{_printable(old[i])}{RESET}")
        elif frame.masked[i]:
            words.append(f"{DIM}{MASK_GLYPH}{RESET}")
        elif frame.commit_step[i] == 0:
            words.append(f"{DIM}{_printable(word)}{RESET}")
        else:
            color = ansi_color(frame.commit_confidence[i])
            words.append(f"{color}{BOLD if i in new else ''}{_printable(word)}{RESET}")
    for word, same in groupby(words):
        count = len(list(same))
        yield from [word] * count if count <= 3 else [f"{word}{DIM}x{count}{RESET}"]


def _printable(token: str) -> str:
    """Return a token that can't move the cursor or change colours."""
    return "".join(c if c.isprintable() else "?" for c in token)


# The animation.


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
    draw.text((MARGIN, 44), _fitting(draw, _printable(about.prompt), _font(14), image.width), FAINT, _font(14))
    for i, (player, run) in enumerate(zip(show.players, runs, strict=True)):
        left, frame, before = MARGIN + i * (panel + MARGIN), run.frames[min(step, run.nfe)], run.frames[step - 1 :][:1]
        draw.text((left, 80), player.name, INK, _font(16, bold=True))
        draw.text((left, 106), f"NFE {frame.nfe}   token positions {frame.token_positions}", FAINT, _font(13))
        if step >= run.nfe:
            text = _fitting(draw, _printable(run.text), _font(14, bold=True), panel)
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
        draw.text(middle, _fitting(draw, _printable(word), font, right - left - 4), ink, font, anchor="mm")
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


def main(config: WatchConfig) -> None:
    """Record every policy on every problem and write, or print, what there is to see."""
    if "list" in config.policy:
        print("\n".join(RULES))
        return
    torch.set_num_threads(config.threads)
    writes = config.format != "ansi"
    if writes and config.out.is_dir() and any(config.out.iterdir()):
        raise UserError(f"out is {str(config.out)!r}, which is not empty: choose another --out")
    # Recorded before the folder is made, so that a mistyped name leaves nothing behind.
    show = rehearse(config)
    if not writes:
        # In colour on a terminal only, or as FORCE_COLOR and NO_COLOR say.
        console = Console()
        for problem in range(config.problems):
            console.print(Text.from_ansi("\n".join(ansi_frames(show, problem)) + "\n"), soft_wrap=True)
        return
    open_run(config.out, to_yaml(config), resume=False)
    if config.format == "html":
        write_atomic(config.out / "watch.html", page(show))
        print(f"page        {config.out / 'watch.html'}")
        return
    for problem, about in enumerate(show.problems):
        file = config.out / f"{about.task}_{about.index}.gif"
        draw_gif(show, problem, file)
        print(f"animation   {file}")


if __name__ == "__main__":
    from train.cli import run

    run(main, WatchConfig)
