"""The networks that learned policies are."""
