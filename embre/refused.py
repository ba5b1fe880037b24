"""The error of a request that cannot be carried out."""


class Refused(ValueError):
    """A wrong key, path, file or value; the text is for people and says what to do.

    Any other ValueError is a mistake of a program, ours or a library's.
    """
