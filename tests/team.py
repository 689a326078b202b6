"""The team profile on one machine: `python -m tests.team` (`make test-team`); Linux, as root for network namespaces.

Servers: Prefect and MLflow with PostgreSQL (Debian's packages) and S3 (moto), behind TLS, by `flows.stack serve`.
Workers: two, in a network namespace and with a host name each. They reach the servers by their names and TLS alone,
and S3 by its address.
Runs: two nights at once (one stands back), one while PostgreSQL restarts, a batch, a correction, a rollback.
Not root: the workers share the machine's network, and the last line says so.
"""

import contextlib
import datetime
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.stack.api import Api
from tests import postgres

PREFECT, MLFLOW = "grayline:of-prefect-1234", "of-mlflow-12345"
NAMES = ("prefect.team.test", "mlflow.team.test")
NIGHT, BATCH = 900.0, 600.0  # seconds
DATASET = """\
name: digits
source: s3://team/raw/digits
corrections: {corrections}
image: {{size: 8}}
model: {{arch: resnet10, width: 16}}
train: {{epochs: {epochs}, batch_size: 32}}
gate: {{metric: accuracy, minimum: 0.0, promote: not_worse, margin: 1.0}}
"""


def say(text: str) -> None:
    sys.stdout.write(f"team        {text}\n")
    sys.stdout.flush()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificate(folder: Path) -> ssl.SSLContext:
    """A certificate of our own for both names, in cert.pem beside its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "team.test")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in NAMES]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def forward(address: str, port: int, to: int, context: ssl.SSLContext) -> None:
    """Take TLS off connections to an address of this machine, and pass them to a port of its loopback."""
    server = socket.create_server((address, port), backlog=128)

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def connect(raw: socket.socket) -> None:
        with contextlib.suppress(OSError):
            inner = socket.create_connection(("127.0.0.1", to))
            outer = context.wrap_socket(raw, server_side=True)
            threading.Thread(target=pump, args=(outer, inner), daemon=True).start()
            pump(inner, outer)

    def accept() -> None:
        while True:
            raw, _ = server.accept()
            threading.Thread(target=connect, args=(raw,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[tuple[list[str], str]]]:
    """The command that enters each network namespace, and the machine's address as seen from it.

    Without root there are none: the command is empty, and the address is the loopback.
    """
    if os.geteuid() != 0 or not shutil.which("ip"):
        yield [([], "127.0.0.1")] * count
        return
    made, found = [], []

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        for number in range(1, count + 1):
            name, here = f"grayline-{os.getpid()}-{number}", f"10.251.{number}"
            made.append(name)
            ip("netns", "add", name)
            ip("link", "add", f"gl{number}a", "type", "veth", "peer", "name", f"gl{number}b", "netns", name)
            ip("addr", "add", f"{here}.1/24", "dev", f"gl{number}a")
            ip("link", "set", f"gl{number}a", "up")
            for words in (
                ["addr", "add", f"{here}.2/24", "dev", f"gl{number}b"],
                ["link", "set", f"gl{number}b", "up"],
                ["link", "set", "lo", "up"],
                ["route", "add", "default", "via", f"{here}.1"],
            ):
                ip("-n", name, *words)
            hosts = Path("/etc/netns", name, "hosts")
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f"127.0.0.1 localhost worker{number}\n{here}.1 {' '.join(NAMES)}\n")
            enter = [
                "ip",
                "netns",
                "exec",
                name,
                "unshare",
                "--uts",
                "sh",
                "-c",
                f'hostname worker{number}; exec "$@"',
                "sh",
            ]
            found.append((enter, f"{here}.1"))
        yield found
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)


class Team:
    """The servers, the bucket and the workers, below a folder."""

    def __init__(self, folder: Path, database: str, address: str) -> None:
        from moto.server import ThreadedMotoServer

        self.folder, self.database, self.started = folder, database, contextlib.ExitStack()
        self.ports = {name: free_port() for name in ("prefect", "mlflow", "prefect-tls", "mlflow-tls")}
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        # An address for all: MLflow's server gives clients addresses in S3 to upload to.
        moto = ThreadedMotoServer(address, port=0, verbose=False)
        moto.start()
        self.s3 = f"http://{address}:{moto.get_host_and_port()[1]}"
        self.keys = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.api = Api(f"http://127.0.0.1:{self.ports['prefect']}/api", PREFECT)
        self.tls = make_certificate(folder)

    def clean(self, **more: str) -> dict[str, str]:
        """This session's environment, less what is set for our libraries; nothing of the home is used."""
        ours = ("GRAYLINE", "PREFECT", "MLFLOW", "AWS", "XDG")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return kept | {"HOME": str(self.folder), "PYTHONPATH": str(Path(__file__).parents[1])} | more

    def file_system(self) -> Any:
        import s3fs

        return s3fs.S3FileSystem(key="testing", secret="testing", endpoint_url=self.s3, use_listings_cache=False)

    def serve(
        self, name: str, enter: list[str], cwd: Path, env: dict[str, str], *files: str
    ) -> subprocess.Popen[bytes]:
        log = self.started.enter_context((cwd / f"{name}.log").open("ab"))
        command = [*enter, sys.executable, "-m", "flows.stack", "serve", name, *files]
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log)
        self.started.callback(end, process)
        return process

    def start_servers(self) -> None:
        """Both servers on the loopback, and S3 with a bucket."""
        for name in ("prefect", "mlflow"):
            subprocess.run([sys.executable, "-c", CREATE, self.database, name], check=True)
        self.file_system().mkdir("team")
        home = self.folder / "servers"
        home.mkdir()
        user, host = f"{postgres.USER}:{quote(postgres.PASSWORD, safe='')}", self.database.rpartition("host=")[2]
        settings = {
            "store": "s3://team/store",
            "prefect_port": self.ports["prefect"], "mlflow_port": self.ports["mlflow"],
            "prefect_public": f"https://{NAMES[0]}:{self.ports['prefect-tls']}",
            "mlflow_public": f"https://{NAMES[1]}:{self.ports['mlflow-tls']}",
            "mlflow_artifacts_destination": "s3://team/mlflow",
            "mlflow_backend_store_uri": f"postgresql+psycopg://{user}@/mlflow?host={host}",
            "prefect_server_database_connection_url": f"postgresql+asyncpg://{user}@/prefect?host={host}",
        }  # fmt: skip
        more = {
            "PREFECT_SERVER_API_AUTH_STRING": PREFECT, "MLFLOW_TRACKING_USERNAME": "grayline",
            "MLFLOW_TRACKING_PASSWORD": MLFLOW, "AWS_ENDPOINT_URL": self.s3,
            "PREFECT_SERVER_ENCRYPTION_KEY": "9L3C5bXqsM9qf4v3JvO2dX1o0v0c0n3u0Jx8f1p7o4E=", **self.keys,
        }  # fmt: skip
        write_settings(home / "grayline.toml", settings, more)
        for name in ("prefect", "mlflow"):
            self.serve(name, [], home, self.clean())
        wait_until(f"{self.api.url}/health", 180)
        wait_until(f"http://127.0.0.1:{self.ports['mlflow']}/health", 180)

    def start_worker(self, number: int, enter: list[str], address: str, file: Path) -> None:
        """A worker that reaches the servers by name and TLS."""
        home = self.folder / f"worker{number}"
        home.mkdir()
        names = NAMES if enter else ("localhost",) * 2
        tls = {name: self.ports[f"{name}-tls"] for name in ("prefect", "mlflow")}
        if enter or number == 1:
            for name, port in tls.items():
                forward(address, port, self.ports[name], self.tls)
        urls = [f"https://{name}:{port}" for name, port in zip(names, tls.values(), strict=True)]
        if not enter:  # nobody may change /etc/hosts: plain http to the loopback
            urls = [f"http://127.0.0.1:{port}" for port in (self.ports["prefect"], self.ports["mlflow"])]
        settings = {
            "store": "s3://team/store", "prefect_api_url": f"{urls[0]}/api", "prefect_api_auth_string": PREFECT,
            "mlflow_tracking_uri": urls[1], "mlflow_tracking_username": "grayline", "mlflow_tracking_password": MLFLOW,
        }  # fmt: skip
        ca = str(self.folder / "cert.pem")
        trust = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "PREFECT_API_SSL_CERT_FILE")
        write_settings(home / "grayline.toml", settings, {"AWS_ENDPOINT_URL": self.s3, **self.keys})
        env = self.clean(HOME=str(home), **(dict.fromkeys(trust, ca) if enter else {}))
        self.serve("worker", enter, home, env, *([str(file)] if number == 1 else []))

    def workers(self) -> set[str]:
        found = self.api.all("/work_pools/grayline/workers/filter", {}) if self.has_pool() else []
        return {worker["name"] for worker in found if worker["status"] == "ONLINE"}

    def has_pool(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.api.ask("/work_pools/grayline"))
        return False

    def begin(self, name: str, /, **parameters: Any) -> str:
        deployment = self.api.ask(f"/deployments/name/{name}/{name}")
        return str(self.api.ask(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"])

    def state(self, run: str) -> dict[str, Any]:
        for _ in range(60):  # PostgreSQL restarts
            try:
                return dict(self.api.ask(f"/flow_runs/{run}")["state"])
            except OSError:
                time.sleep(1)
        raise AssertionError("Prefect's server does not answer")

    def ended(self, run: str, seconds: float) -> str:
        end = time.monotonic() + seconds
        while (state := self.state(run))["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            assert time.monotonic() < end, f"run {run} is still {state['name']}"
            time.sleep(1)
        return str(state["type"])

    def runs(self, name: str, seconds: float, /, **parameters: Any) -> None:
        began = time.monotonic()
        run = self.begin(name, **parameters)
        found = self.ended(run, seconds)
        assert found == "COMPLETED", f"{name}: {self.state(run)}"
        say(f"{name}: {found} after {time.monotonic() - began:.0f} s")

    def champion(self) -> str:
        from mlflow.tracking import MlflowClient

        os.environ.update(MLFLOW_TRACKING_USERNAME="grayline", MLFLOW_TRACKING_PASSWORD=MLFLOW)
        client = MlflowClient(f"http://127.0.0.1:{self.ports['mlflow']}")
        return str(client.get_model_version_by_alias("digits", "champion").version)


CREATE = """
import sys, psycopg
with psycopg.connect(sys.argv[1].replace("+psycopg", ""), autocommit=True) as connection:
    connection.execute(f"create database {sys.argv[2]}")
"""


def write_settings(path: Path, settings: dict[str, Any], environment: dict[str, str]) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    lines += ["[environment]", *(f"{key} = {json.dumps(value)}" for key, value in environment.items())]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")


def end(process: subprocess.Popen[bytes]) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, left = psutil.wait_procs(family, timeout=20)
        for survivor in left:
            survivor.kill()


def wait_until(url: str, seconds: float) -> None:
    import urllib.request

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(1)
    raise AssertionError(f"{url} does not answer")


def write_digits(team: Team) -> None:
    """The first 300 digits of scikit-learn as PNG files in the bucket, a folder for each class."""
    from tests.old_version import write_digits as write

    write(team.folder / "raw")
    team.file_system().put(f"{team.folder}/raw/", "team/raw/digits/", recursive=True)


def correct(team: Team, file: Path) -> None:
    """A person says that ten sevens are ones; a correction names the image by its place and its digest."""
    import csv
    import hashlib

    (team.folder / "corrections").mkdir()
    with (team.folder / "corrections" / "labels.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["path", "image_id", "label"])
        for image in sorted((team.folder / "raw" / "7").glob("*.png"))[:10]:
            place = f"s3://team/raw/digits/7/{image.name}"
            writer.writerow([place, hashlib.sha256(image.read_bytes()).hexdigest(), "1"])
    file.write_text(DATASET.format(corrections=team.folder / "corrections" / "labels.csv", epochs=2))


def play(team: Team, rooms: list[tuple[list[str], str]]) -> None:
    file = team.folder / "digits.yaml"
    file.write_text(DATASET.format(corrections="null", epochs=2))
    team.start_servers()
    say("servers answer: PostgreSQL for both, S3 for store and artifacts")
    write_digits(team)
    for number, (enter, address) in enumerate(rooms, 1):
        team.start_worker(number, enter, address, file)
        deadline = time.monotonic() + 180
        while len(team.workers()) < (number if enter else 1):
            assert time.monotonic() < deadline, (
                f"worker {number} is not online: {team.folder}/worker{number}/worker.log"
            )
            time.sleep(1)
    say(f"workers are online: {', '.join(sorted(team.workers()))}")

    both = [team.begin("nightly-retrain", dataset=str(file)) for _ in range(2)]
    outcomes = sorted(team.ended(run, NIGHT) for run in both)
    assert outcomes == ["CANCELLED", "COMPLETED"], [team.state(run) for run in both]
    assert team.champion() == "1"
    say("two nights at once: one ran, one stood back")

    correct(team, file)
    run = team.begin("nightly-retrain", dataset=str(file))
    while team.state(run)["type"] in ("SCHEDULED", "PENDING"):
        time.sleep(0.5)
    time.sleep(8)  # in the middle of the night
    began = time.monotonic()
    postgres.restart(team.database)
    say(f"PostgreSQL restarted in {time.monotonic() - began:.1f} s while the run was {team.state(run)['name']}")
    assert team.ended(run, NIGHT) == "COMPLETED", team.state(run)
    assert team.champion() == "2"
    say("the night with ten corrected labels went on: version 2 is the champion")

    team.runs("classify-batch", BATCH, source="s3://team/raw/digits", output="s3://team/scores/first")
    rows = count_rows(team, "team/scores/first")
    assert rows == 303, rows
    team.runs("rollback", BATCH, name="digits", reason="the corrections were wrong")
    assert team.champion() == "1"
    say("303 rows for 303 files; version 1 is the champion again")


def count_rows(team: Team, folder: str) -> int:
    import pyarrow.parquet as pq

    fs = team.file_system()
    return sum(pq.read_metadata(fs.open(path)).num_rows for path in fs.glob(f"{folder}/*.parquet"))


def main() -> None:
    if postgres.programs() is None:
        sys.exit("team: PostgreSQL is not installed. Run: apt-get install postgresql")
    folder, began = Path(tempfile.mkdtemp(prefix="team-")), time.monotonic()
    with postgres.cluster() as database, namespaces(2) as rooms:
        team = Team(folder, database, rooms[0][1])
        with team.started:
            play(team, rooms)
    shutil.rmtree(folder)
    where = "in network namespaces of their own" if rooms[0][0] else "in the machine's own network: not root"
    say(f"all is right after {time.monotonic() - began:.0f} s; the workers were {where}")


if __name__ == "__main__":
    main()
