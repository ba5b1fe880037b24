"""Checkpoints: committed when their manifest is there, found by what it says."""
