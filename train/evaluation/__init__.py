"""Policies measured on held-out problems: decoding, scores, records, statistics, plots."""
