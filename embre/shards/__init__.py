"""Shard sets: what a document is in one, the tars and their manifest, and reading them back."""
