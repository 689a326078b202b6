"""`up --public` starts nothing unless TLS with a certificate that this machine trusts is in front of both servers."""

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flows.stack import local
from resnet_core.errors import UserError
from tasks.settings import Settings


@pytest.fixture
def front(tmp_path: Path) -> Iterator[str]:
    """A TLS server for the name localhost, by a certificate of its own in cert.pem; its address."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server, context), daemon=True).start()
        yield f"https://localhost:{server.getsockname()[1]}"


def serve(server: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()


def set_public(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefect: str | None, mlflow: str | None) -> None:
    monkeypatch.setenv("GRAYLINE_STORE", str(tmp_path / "store"))
    for name, address in (("PREFECT", prefect), ("MLFLOW", mlflow)):
        if address is not None:
            monkeypatch.setenv(f"GRAYLINE_{name}_PUBLIC", address)


@pytest.mark.parametrize(
    "address", [None, "", "http://prefect.example.com", "prefect.example.com", "https://", "https://localhost/prefect"]
)
def test_an_address_without_tls_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    set_public(monkeypatch, tmp_path, address, address)
    with pytest.raises(UserError, match=r"--public: a TLS proxy must be in front .* Set GRAYLINE_PREFECT_PUBLIC"):
        local.up(public=True)
    assert not (tmp_path / "store" / "stack").exists()


def test_where_no_trusted_tls_answers_nothing_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for prefect, mlflow, variable in (
        (f"https://localhost:{port}", front, "PREFECT"),  # nothing listens there
        (front, front, "PREFECT"),  # nobody trusts its certificate
    ):
        set_public(monkeypatch, tmp_path, prefect, mlflow)
        with pytest.raises(UserError, match=f"no TLS with a valid certificate .* GRAYLINE_{variable}_PUBLIC"):
            local.up(public=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    set_public(monkeypatch, tmp_path, front, front.replace("localhost", "127.0.0.1"))
    with pytest.raises(UserError, match=r"no TLS with a valid certificate .* GRAYLINE_MLFLOW_PUBLIC"):
        local.up(public=True)  # a certificate for another name
    assert not (tmp_path / "store" / "stack").exists()


def test_with_tls_in_front_of_both_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front: str) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    set_public(monkeypatch, tmp_path, front, front)
    local._check_public(Settings())


@pytest.mark.parametrize("begin", [local.up, lambda files: local.serve("worker", files)])
def test_a_data_set_file_that_is_none_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[list[Path]], None]
) -> None:
    set_public(monkeypatch, tmp_path, None, None)
    (tmp_path / "typed.yaml").write_text("name: parts\nsourec: images\n")
    for name, words in (("missing.yaml", "cannot be read"), ("typed.yaml", "sourec: unknown key")):
        with pytest.raises(UserError, match=words):
            begin([tmp_path / name])
    assert not (tmp_path / "store").exists()
