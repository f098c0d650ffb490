"""The form of an evaluation record."""

KEYS = [
    "policy",
    "decision",
    "task",
    "block_length",
    "accuracy",
    "accuracy_ci95",
    "nfe",
    "nfe_ci95",
    "token_positions",
    "episodes",
    "seed",
]
