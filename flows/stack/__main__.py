"""`python -m flows.stack up` and `down`: what `make up` and `make down` call; `serve` for systemd and containers."""

import sys
from pathlib import Path

from flows.stack.local import down, serve, up
from resnet_core.errors import UserError
from tasks.progress import complain
from tasks.settings import prepare_environment

_USAGE = (
    "usage: python -m flows.stack up [DATASET.yaml ...] [--public] | down | serve prefect | serve mlflow | "
    "serve worker [DATASET.yaml ...]"
)


def _is_dataset_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def main() -> None:
    """Run `up`, `down` or `serve`; turn the user's errors into one line and status 2."""
    try:
        prepare_environment()
        match sys.argv[1:]:
            case ["up", *words] if all(word == "--public" or _is_dataset_file(word) for word in words):
                files = [Path(word).absolute() for word in words if _is_dataset_file(word)]
                up(files, public="--public" in words)
            case ["down"]:
                down()
            case ["serve", "prefect" | "mlflow" | "worker" as name, *words] if all(map(_is_dataset_file, words)) and (
                name == "worker" or not words
            ):
                serve(name, [Path(word).absolute() for word in words])
            case words:
                raise UserError(f"{' '.join(words)!r}: unknown. {_USAGE}")
    except UserError as error:
        complain(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
