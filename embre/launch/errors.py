"""Errors of a launch."""


class RunFailed(RuntimeError):
    """A run that was carried out and failed; the message says why and how to go on."""
