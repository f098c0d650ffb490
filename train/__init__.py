"""Everything that one can run, as ``python train/NAME.py``; each folder is a room of what they share."""
