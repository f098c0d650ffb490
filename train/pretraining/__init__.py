"""How an embedded dLLM is made: its architectures, its problems, its losses."""
