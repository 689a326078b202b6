"""Let gdb hide AVX-512 and VNNI from ONNX Runtime, which has no option for it. It then takes its kernels for AVX2.

    gdb -nx -batch -x benchmarks/avx2.py --args python SCRIPT     # needs gdb and binutils

Every `cpuid` of the library is stepped over, and the bits of leaf 7 (Intel SDM, volume 2A) are cleared. Speed is the
processor's own afterwards.
"""

import re
import subprocess
from pathlib import Path

import gdb

NAME = "onnxruntime_pybind11_state"
# AVX-512 and AMX, VNNI in ecx and in eax of the second page, GFNI and VAES.
HIDDEN = {
    "ebx": (16, 17, 21, 26, 27, 28, 30, 31),
    "ecx": (1, 6, 8, 9, 10, 11, 12, 14),
    "edx": (2, 3, 8, 22, 23, 24, 25),
}


def register(name: str) -> int:
    return int(gdb.parse_and_eval(f"${name}")) & 0xFFFFFFFF


def library() -> tuple[int, str]:
    """Return where the library lies in memory, and its path."""
    for line in Path(f"/proc/{gdb.selected_inferior().pid}/maps").read_text().splitlines():
        if NAME in line:
            return int(line.split("-")[0], 16), line[line.index("/") :]
    raise SystemExit(f"{NAME} is not loaded")


def run(command: str) -> None:
    gdb.execute(command, to_string=True)


for setting in ("pagination off", "confirm off", "auto-solib-add off", "breakpoint pending on"):
    run(f"set {setting}")
run(f"catch load {NAME}")
run("run")
start, path = library()
listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True)
places = {start + int(found[1], 16) for found in re.finditer(r"^ *([0-9a-f]+):\tcpuid", listing.stdout, re.M)}
for place in places:
    run(f"break *{place:#x}")
run("continue")
while gdb.selected_inferior().pid:
    if int(gdb.parse_and_eval("$pc")) in places:
        leaf, page = register("eax"), register("ecx")
        run("stepi")
        if leaf == 7 and page == 0:
            for name, bits in HIDDEN.items():
                run(f"set ${name} = {register(name) & ~sum(1 << bit for bit in bits)}")
        elif leaf == 7 and page == 1:
            run("set $eax = 0")
    run("continue")
