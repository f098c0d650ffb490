"""Training of a filter: binary cross-entropy to the oracle's bits, stopped early on held-out traces."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policies import UnmaskingNetwork
from policies.networks.block_filter import BlockFilter
from train.command.finite import check_loss, watch
from train.command.progress import progress
from train.filters.traces import Traces


@dataclass(frozen=True)
class FitSettings:
    """How a filter is trained on its traces."""

    seed: int = 0
    """Of the order of the traces."""
    learning_rate: float = 3e-3
    """Of AdamW."""
    batch_size: int = 256
    """Steps of decoding in a minibatch."""
    epochs: int = 200
    """Passes over the traces at most."""
    patience: int = 12
    """Passes without a better validation loss before stopping."""
    anneals: bool = False
    """Take all passes, with a learning rate that rises and falls to 0, instead of a constant one until it stops."""


def weighted_loss(logits: Tensor, rows: dict[str, Tensor], weight: float = 1.0) -> Tensor:
    """Binary cross-entropy to the oracle's bits over eligible positions.

    Args:
        logits: (B, L) float.
        rows: of `Traces.rows`; where what is learned is a margin, it is a soft label.
        weight: of positions that the oracle does not commit.

    Returns:
        Scalar, nats a position.
    """
    eligible, target = rows["eligible"] > 0, rows["oracle"]
    # A commit too early is in the text for good, one too late costs a forward: they needn't weigh the same.
    weights = _weights(rows, weight)
    loss = F.binary_cross_entropy_with_logits(logits[eligible], target[eligible], reduction="none")
    return (loss * weights).sum() / weights.sum()


def _weights(rows: dict[str, Tensor], weight: float) -> Tensor:
    """Return the weight of each eligible position."""
    return torch.where(rows["oracle"] > 0.5, 1.0, weight)[rows["eligible"] > 0]


def fit(
    network: UnmaskingNetwork | BlockFilter,
    train: Sequence[Traces],
    held_out: Sequence[Traces],
    settings: FitSettings,
    weight: float = 1.0,
) -> dict[str, float]:
    """Train a filter until the held-out loss stops falling, or over all passes, and leave it at its best.

    Returns:
        ``epochs`` run, and the best ``held_out_loss`` in nats a position.

    Raises:
        Diverged: if a loss, a gradient or a weight is not finite; the network is of no use then.
    """
    rng = np.random.default_rng([settings.seed, 1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    watch(optimizer)
    schedule = None
    steps = settings.epochs * sum(-(-len(traces) // settings.batch_size) for traces in train)
    # In fewer than three steps no rate can rise and fall.
    if settings.anneals and steps > 2:
        # A tenth of the steps, two at least: at the first one the rate is hardly above 0.
        rise = max(0.1, 2 / steps)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps, pct_start=rise)
    # A copy, since the training goes on in the same tensors.
    best, best_epoch, best_state = float("inf"), 0, copy.deepcopy(network.state_dict())
    bar = progress(range(1, settings.epochs + 1), desc="training", unit="epoch")
    for epoch in bar:
        network.train()
        # Block length by block length: a batch of several would mix kinds of decoding.
        for traces in train:
            for rows in traces.batches(settings.batch_size, rng):
                loss = weighted_loss(network(rows), rows, weight)
                check_loss(loss.item())
                optimizer.zero_grad()
                loss.backward()
                # Rows are steps of few texts; one odd text's gradient must not undo an epoch.
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                if schedule is not None:
                    schedule.step()
        network.eval()
        with torch.inference_mode():
            losses, sizes = [], []
            for traces in held_out:
                for rows in traces.batches(traces.large_batch):
                    losses.append(float(weighted_loss(network(rows), rows, weight)))
                    # Batches count as their positions do, or the last and smallest would count too much.
                    sizes.append(float(_weights(rows, weight).sum()))
        score = float(np.average(losses, weights=sizes))
        check_loss(score)
        bar.set_postfix(held_out=f"{score:.4f}", refresh=False)
        if score < best:
            best, best_epoch, best_state = score, epoch, copy.deepcopy(network.state_dict())
        elif not settings.anneals and epoch - best_epoch >= settings.patience:
            break
    network.load_state_dict(best_state)
    return {"epochs": epoch, "held_out_loss": best}
