"""Hold every connection of a command: by a hook in its Python processes, and by strace where it is.

The hook sees what Python asks for, names included; strace also sees libraries that talk to the system themselves.
"""

import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

Addresses = set[tuple[str, str]]  # host and port

_HOOK = """
import os, sys

def _hold(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(args[1], tuple):
        host, port = args[1][:2]
    elif event == "socket.getaddrinfo" and args[0]:
        host, port = args[0], args[1]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    with open(os.environ["HELD"], "a") as file:
        file.write(f"{host} {port} {os.getpid()} {' '.join(sys.orig_argv)[:200]!r}\\n")

sys.addaudithook(_hold)
"""
_IPV4 = re.compile(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)')
_IPV6 = re.compile(r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"')


@lru_cache
def _strace() -> str | None:
    """The program, if it is there and may trace: containers forbid it at times."""
    program = shutil.which("strace")
    probe = [str(program), "-f", "--seccomp-bpf", "-e", "trace=connect", "-o", "/dev/null", "true"]
    return program if program and subprocess.run(probe, capture_output=True, check=False).returncode == 0 else None


def watched(command: list[str], folder: Path, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command; what it and its descendants connect to is added to the folder. Servers that it starts go on."""
    (folder / "sitecustomize.py").write_text(_HOOK)
    env = env | {"HELD": str(folder / "held"), "PYTHONPATH": f"{folder}:{env.get('PYTHONPATH', '')}".rstrip(":")}
    if program := _strace():
        trace = tempfile.mkstemp(prefix="strace-", dir=folder)[1]
        # -D: strace is not the parent, so that it may follow the servers when the command has ended.
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        command = [program, "-f", "-D", "-qq", "--seccomp-bpf", "-e", calls, "-o", trace, *command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(command, cwd=cwd, env=env, stdout=out, stderr=err, text=True, check=False)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())


def addresses(folder: Path) -> tuple[Addresses, Addresses | None]:
    """Where the commands have connected to, by the hook and by strace; None where strace may not trace."""
    lines = [line.split() for line in (folder / "held").read_text().splitlines()]
    traces = "".join(file.read_text() for file in folder.glob("strace-*"))
    found = {(host, port) for pattern in (_IPV4, _IPV6) for port, host in pattern.findall(traces)}
    return {(line[0], line[1]) for line in lines}, found if _strace() else None
