"""What an exported policy is made of, copied as it is: `block_policy` and one module for each engine.

Nothing here imports the rest of this library, so that an exported policy doesn't need it.
"""
