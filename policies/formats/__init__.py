"""Learned policies in the formats of others: serving engines, and released code."""
