"""Reading and judging what a model wrote, in processes that can do no harm."""
