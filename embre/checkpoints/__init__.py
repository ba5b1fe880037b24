"""Checkpoints of a run, each committed by its manifest."""
