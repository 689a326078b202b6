"""Errors whose text is for the user: it names the thing and the remedy."""


class UserError(Exception):
    """What the user gave is wrong: the text names the thing, the field and what to write instead.

    The command line prints the text as one line and exits with status 2.
    """


class JobError(RuntimeError):
    """The job has failed, for a reason that the text names together with the remedy.

    The command line prints the text as one line and exits with status 1.
    """


class DataCheckError(JobError):
    """The data is not fit to be trained on, by the limits of the data set file."""


class TrainingError(JobError):
    """The training cannot go on."""


def nearest(word: str, known: list[str]) -> str:
    """A ' Did you mean ...?' for a misspelt `word`, or nothing when no known word is close."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
