"""Entry points: pretraining, PPO, evaluation; each runs as ``python train/NAME.py``."""
