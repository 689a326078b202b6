"""Options that several commands share, and the checks of the user's input before a flow starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from resnet_core.errors import UserError, nearest
from tasks.settings import Settings, check_store, keys_for

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
