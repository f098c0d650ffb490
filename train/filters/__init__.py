"""Learn2PD filters: traces of decoding under the oracle, training on them, and what it came to."""
