"""What the commands share: their common options, and what is checked before a flow starts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from tasks.settings import Settings, check_store, keys_for

DatasetFile = Annotated[str, typer.Option("--dataset", help="The data set file, such as data/elpv.yaml.")]


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C leaves what is done: parts that were read or scored, the last epoch's checkpoint."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ngrayline: interrupted; the same command goes on from here", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def ready(fans_out: bool = True) -> None:
    """What is wrong with the store, the server or the cluster is said before a flow takes its seconds to start."""
    from flows.doctor import check_prefect

    check_store(Settings().root)
    check_prefect()
    if fans_out and Settings().runner == "ray":
        from tasks.cluster import connect

        connect()


def check(dataset: str) -> None:
    """What is wrong with a data set file, its source or its keys is said at once."""
    from resnet_core.catalog.corrections import check_corrections
    from resnet_core.sources.source import check_source
    from tasks.dataset import load_dataset

    data = load_dataset(dataset)
    check_source(data.source)
    if data.corrections:
        check_corrections(data.corrections)
    keys_for(data.encrypt, Settings())
    ready()
