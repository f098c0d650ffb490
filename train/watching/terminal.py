"""Recordings as coloured text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from envs.denoiser import Denoiser
from envs.render import DIM, MASK_GLYPH, RESET, ansi_color
from train.command.escaping import printable, printable_lines
from train.watching.recording import Frame
from train.watching.show import Show

BOLD, STRUCK = "\x1b[1;4m", "\x1b[9;35m"


def ansi_frames(show: Show, problem: int) -> Iterator[str]:
    """Draw a problem step by step: at each step one block of text with a coloured line a policy."""
    about, runs = show.problems[problem], [recordings[problem] for recordings in show.recordings]
    head = f"{BOLD}{about.task} {about.split} {about.index}{RESET}  {printable_lines(about.prompt)}"
    yield f"{head}\n{DIM}a right answer  {printable_lines(about.answer)}{RESET}"
    names = [printable(player.name) for player in show.players]
    width = max(map(len, names))
    last = max(run.nfe for run in runs)
    for step in range(1, last + 1):
        lines = [f"step {step} of {last}"]
        for name, run in zip(names, runs, strict=True):
            # A policy that has finished stands as it ended while the others go on.
            k = min(step, run.nfe)
            frame, before = run.frames[k], run.frames[k - 1]
            counters = f"NFE {frame.nfe:>3}  positions {frame.token_positions:>6}"
            if show.is_cached:
                # What this step computed, as the sum alone hides it.
                counters += f" (+{frame.token_positions - before.token_positions if step <= run.nfe else 0})"
            words = " ".join(_ansi_words(show.denoiser, frame, before, fresh=step <= run.nfe))
            lines.append(f"  {name:<{width}}  {DIM}{counters}{RESET}  {words}")
        yield "\n".join(lines)
    results = [
        f"  {name:<{width}}  score {_shown(scores[problem])}  NFE {run.nfe:>3}  {printable_lines(run.text)}"
        for name, run, scores in zip(names, runs, show.scores, strict=True)
    ]
    yield "\n".join(["final", *results])


def _ansi_words(denoiser: Denoiser, frame: Frame, before: Frame, fresh: bool) -> Iterator[str]:
    """Yield the buffer's words, runs of the same one written once with their length."""
    strings, old = denoiser.token_strings(frame.tokens), denoiser.token_strings(before.tokens)
    new = set(frame.committed) if fresh else set()
    words: list[str] = []
    for i, word in enumerate(strings):
        if frame.remasked[i]:
            words.append(f"{STRUCK}{printable(old[i])}{RESET}")
        elif frame.masked[i]:
            words.append(f"{DIM}{MASK_GLYPH}{RESET}")
        elif frame.commit_step[i] == 0:
            words.append(f"{DIM}{printable(word)}{RESET}")
        else:
            color = ansi_color(frame.commit_confidence[i])
            words.append(f"{color}{BOLD if i in new else ''}{printable(word)}{RESET}")
    for word, same in groupby(words):
        count = len(list(same))
        yield from [word] * count if count <= 3 else [f"{word}{DIM}x{count}{RESET}"]


def _shown(score: float | None) -> str:
    return "unknown" if score is None else f"{score:g}"
