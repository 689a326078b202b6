"""Take the README's two screenshots from a running stack (`make up`), with headless Chromium.

    apt-get install chromium          # Debian's package
    .venv/bin/python -m docs.screenshots

The newest completed nightly-retrain run and the champion of its model are shown, so run
`grayline demo` first. Chromium speaks to 127.0.0.1 only, with the password of the stack.
"""

import base64
import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tasks.access.passwords import access_of
from tasks.settings import Settings
from tasks.store import Store

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1400, "height": 1000}


def main() -> None:
    settings = Settings()
    prefect, mlflow = f"http://127.0.0.1:{settings.prefect_port}", f"http://127.0.0.1:{settings.mlflow_port}"
    password = access_of(Path(Store(settings.root).stack().path), None, (None, None)).prefect
    run, (name, version) = newest_run(prefect, password), newest_champion(mlflow, password)
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        user, _, word = password.partition(":")
        context = browser.new_context(
            viewport=SIZE, http_credentials={"username": user, "password": word, "origin": mlflow}
        )
        page = context.new_page()
        page.goto(prefect)
        page.evaluate("password => localStorage.setItem('prefect-password', btoa(password))", password)
        shoot(page, f"{prefect}/runs/flow-run/{run}", IMAGES / "prefect-run.png")
        shoot(page, f"{mlflow}/#/models/{name}/versions/{version}", IMAGES / "mlflow-model.png")
        browser.close()


def newest_run(prefect: str, password: str) -> str:
    query = {
        "sort": "START_TIME_DESC",
        "limit": 1,
        "flows": {"name": {"any_": ["nightly-retrain"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    (run,) = ask(f"{prefect}/api/flow_runs/filter", password, query)
    return str(run["id"])


def newest_champion(mlflow: str, password: str) -> tuple[str, str]:
    models = ask(f"{mlflow}/api/2.0/mlflow/registered-models/search", password)["registered_models"]
    model = max(models, key=lambda model: model["last_updated_timestamp"])
    champion = next(alias for alias in model["aliases"] if alias["alias"] == "champion")
    return model["name"], champion["version"]


def ask(url: str, password: str, body: Any = None) -> Any:
    known = base64.b64encode(password.encode()).decode()
    head = {"Content-Type": "application/json", "Authorization": f"Basic {known}"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def shoot(page: Any, url: str, to: Path) -> None:
    page.goto(url)
    page.wait_for_timeout(15_000)
    page.screenshot(path=to)
    print(to)  # noqa: T201


if __name__ == "__main__":
    main()
