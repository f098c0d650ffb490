"""Benchmarks of the field, read from their own files."""
