"""What `train/compare.py` is made of: runs that are read, what is computed of them, and the report that says it."""
