"""Errors whose text is for the user, with the remedy."""


class UserError(Exception):
    """The input is wrong. The text names the file, the field and the remedy; the command exits with status 2.

    Several arguments are several lines.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class JobError(RuntimeError):
    """The job has failed. The text names the reason and the remedy; the command exits with status 1."""


class DataCheckError(JobError):
    """The data breaks the limits of the data set file."""


class TrainingError(JobError):
    """The training cannot go on."""


def nearest(word: str, known: list[str]) -> str:
    """Return ' Did you mean ...?' for a misspelt `word`, or nothing if no known word is close."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
