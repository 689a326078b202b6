"""The command `grayline`, and `python -m grayline`: see that the packages are Grayline's own, then run it."""

import sys
from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parents[1]
# A file of each package, by which it is known: the names are common ones.
_OWN = {"flows": "cli/app.py", "tasks": "settings.py", "resnet_core": "errors.py"}


def foreign() -> str:
    """Return what is wrong with the packages, in a line with its remedy; empty if they are Grayline's."""
    for name, file in _OWN.items():
        spec = find_spec(name)
        place = Path(spec.origin).parent if spec and spec.origin else None
        if place is None or place.resolve() != _HOME / name or not (place / file).exists():
            where = place or "nowhere"
            return (
                f"another package {name!r} hides Grayline's: found {where}, wanted {_HOME / name}. Install Grayline "
                "into an environment of its own, and start it outside of folders that hold such a package."
            )
    return ""


def main() -> None:
    """Run the command line. Where this system or a foreign package is in the way, say so, with status 2."""
    wrong = foreign()
    if sys.platform == "win32":
        wrong = "Windows has none of the locks and limits of processes that are needed. Use WSL2 (docs/install.md)."
    if wrong:
        print(f"grayline: {wrong}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    from flows.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
