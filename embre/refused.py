"""The error for a request that cannot be carried out."""


class Refused(ValueError):
    """A wrong key, path, file or value of the user; the message names it and the remedy.

    Any other ValueError is a bug, of embre or of a library.
    """
