"""Probe an encoder: which concepts it predicts for hidden mentions."""
