"""PPO, and GRPO over groups of attempts."""
