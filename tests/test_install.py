"""`install.py`: PyTorch's wheels for CPUs where there is no card and its index answers, else PyPI's; with a line."""

import http.server
import re
import socket
import threading
from pathlib import Path

import pytest

import install

LOCK = (Path(__file__).parents[1] / "requirements.lock").read_text(encoding="utf-8")


def test_a_lock_without_cards_keeps_every_other_package_with_its_hashes() -> None:
    kept, torch = install.without_cards(LOCK)
    assert [re.sub(r"==.*\+", " ", name) for name in torch] == ["torch cpu", "torchvision cpu"]
    before, after = ([entry[1] for entry in install.ENTRY.finditer(text)] for text in (LOCK, kept))
    gone = {name for name in before if name not in after}
    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-toolkit"} <= gone
    assert {"numpy", "prefect", "mlflow", "safetensors"} <= set(after)
    assert all(name in install.TORCH or install.FOR_CARDS.fullmatch(name) for name in gone)
    for entry in install.ENTRY.finditer(kept):
        assert entry[0] in LOCK
        assert "--hash=sha256:" in entry[0]


def test_an_index_that_is_silent_or_says_no_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not install.answers(f"http://127.0.0.1:{silent.getsockname()[1]}", patience=0.2)
    assert not install.answers("http://127.0.0.1:9", patience=0.2)


class _Index(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.parametrize("card", [True, False])
def test_the_machine_decides_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, card: bool
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], check: bool) -> object:
        ran.append([*command[-3:], Path(command[-1]).read_text() if command[-2] == "-r" else ""])
        return type("Done", (), {"returncode": 0})()

    monkeypatch.setattr(install.subprocess, "run", run)
    monkeypatch.setattr(install, "has_card", lambda: card)
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")
    (tmp_path / "lock").write_text(LOCK)
    server = http.server.HTTPServer(("127.0.0.1", 0), _Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        install.install("python", [str(tmp_path / "lock")], f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
    said = capsys.readouterr().out
    assert ("an NVIDIA card is here" in said, "for CPUs: " in said) == (card, not card)
    assert len(ran) == 1 + (not card)
    assert ("nvidia-cublas==" in ran[-1][-1]) == card
    assert "GB" in said


def test_pip_is_asked_where_uv_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def run(command: list[str], check: bool) -> object:
        asked.append(command[0])
        return type("Done", (), {"returncode": int(command[0] == "/bin/uv")})()

    monkeypatch.setattr(install.subprocess, "run", run)
    monkeypatch.setattr(install.shutil, "which", lambda name: "/bin/uv")
    (tmp_path / "lock").write_text("numpy==2.4.1 --hash=sha256:1\n")
    install.install("python", [str(tmp_path / "lock")])
    assert asked == ["/bin/uv", "python"]
