"""Errors whose text is for the user: it names the thing and the remedy."""


class UserError(Exception):
    """What the user gave is wrong: the text names the thing, the field and what to write instead.

    The command line prints the text as one line and exits with status 2.
    """


class DataCheckError(RuntimeError):
    """The data is not fit to be trained on, by the limits of the data set file: the job has failed.

    The command line prints the text as one line and exits with status 1.
    """


def nearest(word: str, known: list[str]) -> str:
    """A ' Did you mean ...?' for a misspelt `word`, or nothing when no known word is close."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
