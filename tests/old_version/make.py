"""Make `store.tar.xz` with the code of commit f0480c9: `python -m tests.old_version.make`."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.old_version import ARCHIVE, COMMIT, MADE_IN, SETTINGS, write_digits

REPOSITORY = Path(__file__).parents[2]


def main() -> None:
    out = Path(MADE_IN)
    out.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        checkout = Path(scratch) / "checkout"
        git("worktree", "add", "--quiet", "--detach", str(checkout), COMMIT)
        try:
            make(out, checkout)
            pack(out)
        finally:
            git("worktree", "remove", "--force", str(checkout))
            shutil.rmtree(out)


def git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=REPOSITORY, check=True)


def make(out: Path, checkout: Path) -> None:
    """Run two nights and a batch of the checkout in `out`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRAYLINE_", "MLFLOW_"))}
    places = {"PYTHONPATH": checkout, "GRAYLINE_STORE": out / "store", "PREFECT_HOME": out / "prefect"}
    environment = kept | {name: str(path) for name, path in places.items()} | {"OMP_NUM_THREADS": "1"}
    environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"

    def grayline(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "flows.cli", *words], cwd=out, env=environment, check=True)

    write_digits(out / "digits")
    settings = SETTINGS.replace("SOURCE", str(out / "digits"))
    for text in (settings.replace("coverage: 0.9", "coverage: 0.95"), settings):
        (out / "digits.yaml").write_text(text, encoding="utf-8")
        grayline("train", "--dataset", "digits.yaml")
        for path in (out / "store" / "runs").glob("*/*/model/model.safetensors"):
            shorten(path)
        grayline("retrain", "--dataset", "digits.yaml")
    grayline("promote", "digits", "2", "--reason", "by hand")
    grayline("classify-batch", "--source", "digits", "--output", "digits-scores", "--model", "digits/2")


def shorten(path: Path) -> None:
    """Round weights to bfloat16, in float32: the archive gets half as large."""
    tensors = load_file(path)
    save_file({k: t.bfloat16().float() if t.is_floating_point() else t for k, t in tensors.items()}, path)


def pack(out: Path) -> None:
    """Write the archive, without drawings and Prefect's folder."""

    def keep(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        left_out = (
            member.name.endswith((".png", ".webp")) or "__pycache__" in member.name or member.name == "store/prefect"
        )
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return None if left_out else member

    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for name in ("digits.yaml", "digits-scores", "store"):
            archive.add(out / name, name, filter=keep)
    sys.stdout.write(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
