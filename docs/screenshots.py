"""Take the README's two screenshots from a running stack (`make up`), with headless Chromium.

    apt-get install chromium          # Debian's package
    .venv/bin/python docs/screenshots.py

The newest completed nightly-retrain run and the champion of its model are shown, so run
`grayline demo` first. Chromium speaks to 127.0.0.1 only.
"""

import json
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from tasks.settings import Settings

IMAGES = Path(__file__).parent / "images"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=30000", "--timeout=60000",
)  # fmt: skip


def main() -> None:
    settings = Settings()
    prefect, mlflow = f"http://127.0.0.1:{settings.prefect_port}", f"http://127.0.0.1:{settings.mlflow_port}"
    run = newest_run(prefect)
    shoot(f"{prefect}/runs/flow-run/{run}", IMAGES / "prefect-run.png", 1400, 1000)
    name, version = newest_champion(mlflow)
    shoot(f"{mlflow}/#/models/{name}/versions/{version}", IMAGES / "mlflow-model.png", 1400, 1000)


def newest_run(prefect: str) -> str:
    query = {
        "sort": "START_TIME_DESC",
        "limit": 1,
        "flows": {"name": {"any_": ["nightly-retrain"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    request = urllib.request.Request(
        f"{prefect}/api/flow_runs/filter", json.dumps(query).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        (run,) = json.load(answer)
    return str(run["id"])


def newest_champion(mlflow: str) -> tuple[str, str]:
    with urllib.request.urlopen(f"{mlflow}/api/2.0/mlflow/registered-models/search", timeout=30) as answer:
        models = json.load(answer)["registered_models"]
    model = max(models, key=lambda model: model["last_updated_timestamp"])
    champion = next(alias for alias in model["aliases"] if alias["alias"] == "champion")
    return model["name"], champion["version"]


def shoot(url: str, to: Path, width: int, height: int) -> None:
    to.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        size = f"--window-size={width},{height}"
        command = ["chromium", *FLAGS, size, f"--user-data-dir={profile}", f"--screenshot={to}", url]
        subprocess.run(command, check=True, capture_output=True, timeout=180)
    print(to)  # noqa: T201


if __name__ == "__main__":
    main()
