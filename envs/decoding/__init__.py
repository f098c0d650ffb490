"""Decoding a batch of rows, step by step."""
