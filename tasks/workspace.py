"""Workspace: where a flow works, made once from the machine's settings and the data set."""

from dataclasses import dataclass, replace

from resnet_core.images.limits import Limits
from resnet_core.shards.encryption import Keys
from tasks.dataset import Dataset
from tasks.settings import Settings, check_store, keys_for, known_keys
from tasks.store import Store


@dataclass(frozen=True)
class Workspace:
    """The store, MLflow's address, and the machine's part in the work.

    device: auto, cpu, cuda, cuda:1 or mps. limits: the most that an image may cost. runner: threads, processes or
    ray. resident_bytes: training pixels up to this size stay in the device's memory. keys: encryption keys; None
    where nothing is encrypted.
    """

    store: Store
    tracking_uri: str
    device: str
    limits: Limits
    runner: str
    resident_bytes: int
    keys: Keys | None = None

    def of(self, dataset: Dataset) -> "Workspace":
        """Return the workspace with the keys of a data set. Raises UserError if it is encrypted and no key is set."""
        return replace(self, keys=keys_for(dataset.encrypt, Settings()))

    def with_known_keys(self) -> "Workspace":
        """Return the workspace with all keys that are set, for data sets that may be encrypted."""
        return replace(self, keys=known_keys(Settings()))


def workspace(dataset: Dataset | None = None) -> Workspace:
    """Make the workspace, and its store if it is new. Raises UserError if the store cannot be written."""
    settings = Settings()
    here = Workspace(
        store=Store(settings.root),
        tracking_uri=settings.tracking_uri,
        device=settings.device,
        limits=settings.limits,
        runner=settings.runner,
        resident_bytes=settings.resident_bytes,
    )
    if dataset:
        here = here.of(dataset)
    check_store(settings.root)
    return here
