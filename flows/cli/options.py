"""Options that several commands share, the words of a command line, and checks of the input before a flow starts."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any

import typer

from resnet_core.credentials import public
from resnet_core.errors import UserError, nearest
from resnet_core.storage.locations import printable
from tasks.settings import Settings, allow_typed, check_store, keys_for

_WORD = re.compile(r"(-*[\w-]+=)?(.*)", re.DOTALL)  # an option or a parameter, and its value

DatasetFile = Annotated[str, typer.Option("--dataset", help="The data set file, such as data/elpv.yaml.")]
Model = Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="Or NAME/VERSION; NAME is its champion.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="NAME@ALIAS or NAME/VERSION; the champion by default.")
]
HtmlFile = Annotated[str, typer.Option("--output", "-o", help="The HTML file to write.")]


@contextmanager
def persons_list(place: str) -> Iterator[None]:
    """Let a list of files name any file of this machine: the person who runs the command names the list.

    A deployment's run has no such person, nor has a list that lies elsewhere: their lists name files beside them.
    """
    from resnet_core.policy import more_roots
    from resnet_core.storage.locations import is_url

    with more_roots([] if is_url(place) else ["/"]):
        yield


def ready(fans_out: bool = True, registry: bool = True) -> None:
    """Check the store, the servers and the Ray cluster before anything is read. Raises UserError.

    fans_out: the flow runs its tasks on the cluster. registry: it needs MLflow.
    """
    from flows.machine.doctor import check_mlflow, check_prefect
    from flows.machine.interrupt import obey_in_flows
    from flows.stack.temporary import use_own_server

    check_store(Settings().root)
    check_prefect()
    obey_in_flows()
    use_own_server()
    if registry:
        check_mlflow()
        if (settings := Settings()).signing_key or settings.verify_key:  # MLflow takes its time to import
            from tasks.registry.integrity import check_keys

            check_keys(settings.signing_key, settings.verify_key)
    if fans_out and Settings().runner == "ray":
        from tasks.cluster import connect

        connect()


def check(dataset: str, registry: bool = True) -> None:
    """Check a data set file, its source, its corrections and its keys, then `ready`. Raises UserError."""
    from resnet_core.catalog.corrections import check_corrections
    from resnet_core.sources.source import check_source
    from tasks.dataset import load_dataset

    data = load_dataset(dataset)
    check_source(data.source)
    if data.corrections:
        check_corrections(data.corrections)
    keys_for(data.encrypt, Settings())
    ready(registry=registry)


def choice(option: str, word: str, choices: tuple[str, ...]) -> Any:
    """Return the word, one of a `Literal`'s. Raises UserError if it is not among the choices of the option."""
    if word not in choices:
        kind = option.removeprefix("--")
        raise UserError(f"{option}: unknown {kind} {word!r}.{nearest(word, [*choices])} Known: {', '.join(choices)}.")
    return word


def check_words(words: list[str], command: Any) -> None:
    """Raise UserError for a word that is empty or not UTF-8, and for an option with two values.

    An empty word would mean the current folder or a default, and databases and tables hold UTF-8 alone. command: the
    group of all commands.
    """
    for before, word in pairwise(["", *words]):
        if (text := printable(word)) != word:
            remedy = "Name it so; `convmv -f latin1 -t utf8 --notest` renames"
            raise UserError(f"{text}: is not written in UTF-8. {remedy}.")
        option = before if before.startswith("-") else "an argument"
        if not word or re.fullmatch(r"--[\w-]+=", word):
            name = word.rstrip("=") or option
            raise UserError(f"{name}: is empty. Give a value; a variable of the shell may be unset.")
    _check_options(words, command)


def _check_options(words: list[str], command: Any) -> None:
    """Raise UserError for an option whose last value would win over the others without a word."""
    rest = words[: words.index("--")] if "--" in words else words
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    for option in getattr(command, "params", []):
        if getattr(option, "is_flag", True) or option.multiple:
            continue
        given = [word for word in rest if any(word == name or word.startswith(f"{name}=") for name in option.opts)]
        if len(given) > 1:
            raise UserError(f"{option.opts[0]}: is given {len(given)} times, and takes one value. Give it once.")


def public_words(words: list[str]) -> list[str]:
    """Return the command line with public URLs: no command sees, prints or stores what opens them.

    A place that a person types may be opened, whatever the settings allow input to name.
    """
    pairs = [(pair[1] or "", public(pair[2])) for word in words if (pair := _WORD.fullmatch(word))]
    for _, place in pairs:
        allow_typed(place)
    return [option + place for option, place in pairs]
