"""Run docs/notebook.ipynb in an empty folder, and keep what comes out: `python -m docs.notebook`.

It needs the extra [docs], which has Jupyter's client. Names of this machine's folders are left out.
"""

import tempfile
from pathlib import Path
from typing import Any

from tests.tutorial import environment

PAGE = Path(__file__).with_suffix(".ipynb")


def run(folder: Path) -> Any:
    """Return the notebook with its outputs. Raises CellExecutionError for a cell that fails."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(PAGE, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(book, timeout=600, kernel_name="python3", resources=where, record_timing=False)
    manager = client.create_kernel_manager()
    manager.transport, manager.ip = "ipc", str(folder / ".kernel")  # sockets in the folder instead of ports
    client.execute(env=environment())
    return book


def main() -> None:
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        text = nbformat.writes(run(Path(folder)))
        PAGE.write_text(text.replace(folder, "/home/me") + "\n", encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
