"""Install locked packages: `python3 install.py PYTHON LOCK...`; the Makefile calls it, with the interpreter of .venv.

uv is taken where it is there, else pip; both refuse a file whose hash is not in the lock. PyPI's wheels of PyTorch for
Linux bring libraries for NVIDIA cards. Where there is no such card, and PyTorch's own index answers, its wheels for
CPUs are taken: the same version, with the hashes that the index states. Only Python's own library is imported here.
"""

import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PATIENCE = 5.0  # seconds
ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\;]+).*(?:\n[ \t]+.*)*\n?", re.MULTILINE)  # a package with its hashes
TORCH = ("torch", "torchvision")
FOR_CARDS = re.compile(r"nvidia-.*|cuda-.*|triton")  # packages that PyTorch needs for cards alone
SIZES = {True: "an environment of 2.2 GB", False: "an environment of 6.7 GB"}  # with requirements.lock


def has_card() -> bool:
    """Return whether there is an NVIDIA card, or a driver for one."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def answers(index: str, patience: float = PATIENCE) -> bool:
    """Return whether the index answers in time."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=patience) as answer:  # noqa: S310  a constant
            return answer.status == 200
    except (OSError, ValueError):
        return False


def without_cards(lock: str) -> tuple[str, list[str]]:
    """Return the lock without PyTorch and its libraries for cards, and PyTorch's packages as `torch==2.14.1+cpu`."""
    torch = [f"{entry[1]}=={entry[2]}+cpu" for entry in ENTRY.finditer(lock) if entry[1] in TORCH]
    kept = ENTRY.sub(lambda e: "" if e[1] in TORCH or FOR_CARDS.fullmatch(e[1]) else e[0], lock)
    return kept, torch


def installers(python: str) -> list[list[str]]:
    """Return the commands that install into the environment of `python`, without dependencies, the first choice first.

    pip comes after uv, which does not read pip's settings, such as the index of a plant.
    """
    uv, pip = (
        shutil.which("uv"),
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"],
    )
    return [[uv, "pip", "install", "--quiet", "--python", python, "--no-deps"], pip] if uv else [pip]


def for_cpus(command: list[str], lock: str, index: str) -> str:
    """Install PyTorch's wheels for CPUs from the index; return why that is not possible, or an empty text."""
    if platform.machine() != "x86_64" or not answers(index):
        return f"no NVIDIA card is here, but {index} did not answer within {PATIENCE:.0f} s"
    say(f"PyTorch's wheels for CPUs: {SIZES[True]} (no NVIDIA card is here)")
    done = subprocess.run([*command, "--index-url", index, *without_cards(lock)[1]], check=False)
    return f"{index} has no such wheels" if done.returncode else ""


def say(text: str) -> None:
    print(f"install     {text}", flush=True)


def install(python: str, locks: list[str], index: str = CPU_INDEX) -> None:
    """Install what the locks name, PyTorch's wheels by the machine; say which."""
    commands, text = installers(python), "".join(Path(lock).read_text(encoding="utf-8") for lock in locks)
    if any(entry[1] == "torch" for entry in ENTRY.finditer(text)) and sys.platform == "linux":
        why = "an NVIDIA card is here" if has_card() else for_cpus(commands[0], text, index)
        if why:
            say(f"PyTorch's wheels of PyPI, for CPUs and NVIDIA cards: {SIZES[False]} ({why})")
        else:
            text = without_cards(text)[0]
    with tempfile.NamedTemporaryFile("w", suffix=".lock", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        *first, last = [[*command, "--require-hashes", "-r", file.name] for command in commands]
        for command in first:
            if subprocess.run(command, check=False).returncode == 0:
                return
            say(f"{command[0]} could not; pip is asked")
        subprocess.run(last, check=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} PYTHON LOCK...")
    try:
        install(sys.argv[1], sys.argv[2:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"install: {error.cmd[0]} ended with status {error.returncode}; the lines above say why.")
