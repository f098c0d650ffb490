"""The first embedded suite: lists, sums and small puzzles in one fixed form."""
