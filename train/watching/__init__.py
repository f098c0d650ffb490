"""What `train/watch.py` shows: recordings of decodings, as a page, in a terminal, as an animation."""
