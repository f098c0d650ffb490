"""Where a run's numbers go: Weights & Biases, and files that survive a resume."""
