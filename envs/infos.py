"""What the env's infos hold: counters of every row, and what came of a finished one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.tasks import Problem
from envs.tasks.scoring.scorer import Scorer, Unscored


def commits_of(batch: DecodingBatch, step: Tensor) -> npt.NDArray[np.int64]:
    """Return (N,) int64, the positions that each row committed in its (N,) int64 step, from 1."""
    # Step 0 stands for what was never committed, and for rows that have taken no step.
    is_committed = (batch.commit_step == step.unsqueeze(1)) & (step > 0).unsqueeze(1)
    counts: npt.NDArray[np.int64] = is_committed.sum(1).cpu().numpy()
    return counts


def count(batch: DecodingBatch, commits: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return the info that every row has, in Gymnasium's form for vectors.

    Args:
        batch: N rows.
        commits: (N,) int64, positions that the step committed.
    """
    counts = {
        # On the CPU numpy shares the tensor's memory, and the next step adds to it.
        "nfe": batch.nfe.cpu().numpy().copy(),
        "commits": commits,
        "masks_left": batch.masked.sum(1).cpu().numpy(),
    }
    everywhere = np.ones(len(commits), dtype=np.bool_)
    # A mask of its own each: whoever merges infos writes into them.
    return counts | {f"_{name}": everywhere.copy() for name in counts}


def final_info(batch: DecodingBatch, row: int, problem: Problem, scorer: Scorer, commits: int) -> dict[str, Any]:
    """Score a finished row and return its closing info.

    Args:
        batch: its batch.
        row: the row.
        problem: what was asked.
        scorer: gives the answer's score in [0, 1], or says why there is none, which is then NaN.
        commits: positions that its last step committed.
    """
    text = batch.denoiser.decode(batch.tokens(row))
    score = scorer.score(text, problem)
    error = {"score_error": score.reason} if isinstance(score, Unscored) else {}
    return error | {
        "score": np.nan if isinstance(score, Unscored) else score,
        "nfe": int(batch.nfe[row]),
        "commits": commits,
        "masks_left": 0,
        "token_positions": int(batch.token_positions[row]),
        "task": problem.task,
        "text": text,
    }
