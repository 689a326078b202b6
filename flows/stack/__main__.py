"""`python -m flows.stack up` and `down`: what `make up` and `make down` call."""

import sys
from pathlib import Path

from flows.stack.local import down, up
from resnet_core.errors import UserError
from tasks.progress import complain
from tasks.settings import prepare_environment

_USAGE = "usage: python -m flows.stack up [DATASET.yaml ...] [--public] | down"


def _is_dataset_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def main() -> None:
    """Run `up` or `down`; turn the user's errors into one line and status 2."""
    try:
        prepare_environment()
        match sys.argv[1:]:
            case ["up", *words] if all(word == "--public" or _is_dataset_file(word) for word in words):
                files = [Path(word).absolute() for word in words if _is_dataset_file(word)]
                up(files, public="--public" in words)
            case ["down"]:
                down()
            case words:
                raise UserError(f"{' '.join(words)!r}: unknown. {_USAGE}")
    except UserError as error:
        complain(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
