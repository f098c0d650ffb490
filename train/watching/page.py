"""Recordings as one HTML page that needs nothing but a browser."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from train.watching.recording import CommitOrder, Frame, Recording, commit_order
from train.watching.show import Show

TEMPLATE = Path(__file__).with_name("watch.html")

SCALE = 10_000
"""Confidences and probabilities are whole ten-thousandths in the page, which halves its size."""


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
        # Those after them are for the heat map alone; their steps would make the page many times as large.
        for i, problem in enumerate(show.problems[:shown])
    ]
    runs = chain.from_iterable(runs[:shown] for runs in show.recordings)
    frames = chain.from_iterable(run.frames for run in runs)
    ids = sorted(set(chain.from_iterable(map(_ids, frames))))
    names = ("task", "split", "seed", "buffer_length", "block_length", "blocks_ahead")
    decoding = ("end_of_text_prediction", "window", "cache")
    return {
        "model": config.model.name,
        **{name: getattr(config, name) for name in (*names, *decoding)},
        "scale": SCALE,
        "eos": show.denoiser.eos_id,
        "mask": show.denoiser.mask_id,
        "words": dict(zip(ids, show.denoiser.token_strings(ids), strict=True)),
        "players": [player.describe() for player in show.players],
        "problems": problems,
        "orders": [_order_data(show, i) for i in range(len(show.players))] if config.heatmap_problems else [],
    }


def _ids(frame: Frame) -> set[int]:
    return {*frame.tokens, *frame.prediction}


def _run_data(run: Recording, score: float | None) -> dict[str, Any]:
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
        "computed": bits(frame.computed),
        "wish": None if frame.probability is None else scaled(frame.probability),
    }


def _order_data(show: Show, player: int) -> dict[str, Any]:
    count = show.config.heatmap_problems
    runs = show.recordings[player][:count]
    scores = [score for score in show.scores[player][:count] if score is not None]
    order: CommitOrder = commit_order(runs)
    return {
        "counts": order.counts.tolist(),
        "filled": order.filled.tolist(),
        "problems": order.problems,
        "nfe": sum(run.nfe for run in runs) / count,
        "positions": sum(run.token_positions for run in runs) / count,
        "score": sum(scores) / len(scores) if scores else None,
    }
