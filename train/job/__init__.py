"""A training job whatever its algorithm: built, learned, exported, evaluated."""
