"""Names that try to be more than text, by the rooms that write them. They are on the live pages of Prefect and MLflow.

    python -m tests.hostile_names FOLDER

Publishes pages, tables, notes, cards, tags, parameters and metrics to the servers of the stack, and prints as JSON
where a browser finds them.
"""

import json
import sys
from typing import Any

NAMES = (
    '<img src=http://evil.example/1.png onerror="window.pwned=1">',
    "<script>window.pwned=2</script>",
    "<svg/onload=window.pwned=3>",
    "![x](http://evil.example/2.png)",
    "[click](javascript:window.pwned=4)",
    '"><iframe src=http://evil.example/3></iframe>',
    "{{constructor.constructor('window.pwned=5')()}}",
    "http://evil.example/4",
    "\x1b[2J\u202egpj.exe",
    "a|b\n# c `d` **e** ~~f~~ :cat:",
)
# Whatever a name has made of itself in a page.
LIVE = """() => {
  const found = window.pwned ? [`ran ${window.pwned}`] : [];
  const all = (root) => [...root.querySelectorAll("*")].flatMap((n) => n.shadowRoot ? [n, ...all(n.shadowRoot)] : [n]);
  for (const node of all(document)) {
    for (const name of ["src", "href", "action", "data", "srcset"]) {
      const value = node.getAttribute(name) || "";
      if (/evil\\.example|javascript:/i.test(value)) found.push(`${node.tagName} ${name}=${value.slice(0, 80)}`);
    }
    if (node.hasAttribute("onerror") || node.hasAttribute("onload")) found.push(node.outerHTML.slice(0, 80));
  }
  return found;
}"""


def publish(folder: str) -> dict[str, Any]:
    """Publish the names. Returns Prefect's artifacts by key, and ids of MLflow's model, run and experiment."""
    from tasks.settings import Settings, prepare_environment

    prepare_environment()
    from mlflow.entities import Metric, RunTag
    from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
    from upath import UPath

    from tasks.artifacts import publish_page
    from tasks.batch.finish import markdown
    from tasks.batch.record import measured, note, open_run
    from tasks.batch.values import DriftReport, Scores
    from tasks.dataset import Gate
    from tasks.registry.champion import record as add_event
    from tasks.registry.runs import client, log_params
    from tasks.registry.versions import value_of
    from tasks.release.card import add_gate
    from tasks.release.gate import record
    from tasks.values import Check, Decision

    uri = Settings().tracking_uri
    mlflow = client(uri)
    mlflow.create_registered_model("names")
    version = value_of(mlflow.create_model_version("names", "s3://bucket/names", description="# names\n\n## Gate\n"))
    labels, rows = dict.fromkeys(NAMES, (1, 0.5)), [(name, name) for name in NAMES]
    output = UPath(folder) / NAMES[3].replace("/", "")
    scores = Scores(NAMES[0], output, (), version, "torch", 10, 10, 0, labels, 1.0, None, 0, dict.fromkeys(NAMES, 1))
    publish_page(markdown(scores, rows), key="names-page", description=NAMES[4])
    checks = tuple(Check(f"recall of {name}", name, name, passed=True) for name in NAMES)
    decision = Decision(version, checks, True, "; ".join(NAMES))
    record(decision, Gate(), uri)
    add_gate(uri, decision)
    add_event(uri, "names", "promoted", None, version.version, "; ".join(NAMES))
    run, step = open_run(mlflow, scores, UPath(folder))
    drift = DriftReport(version, 0, (), NAMES[3])
    metrics = [Metric(name, value, 0, step) for name, value in measured(scores, drift).items()]
    mlflow.log_batch(run, metrics, tags=[RunTag(MLFLOW_RUN_NOTE, note(scores, drift))])
    log_params(uri, run, {"class": dict(enumerate(NAMES)), **dict.fromkeys(NAMES, 1)})
    return {"run": run, "experiment": mlflow.get_run(run).info.experiment_id, "version": version.version}


if __name__ == "__main__":
    print(json.dumps(publish(sys.argv[1])))  # noqa: T201
