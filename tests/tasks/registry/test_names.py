"""Names of parameters and metrics: MLflow takes every one, and none stands for two."""

import mlflow
import pytest

from tasks.registry.runs import client, log_metrics, log_params, mlflow_name

ODD = [
    "cat (grey)", "cat [grey]", "cat {grey}", "a=b", "50%", "été", "../up", "/abs", "a//b", ".", "x" * 400, "a\nb",
    "#1", "猫", "a,b",
]  # fmt: skip


def test_names_that_mlflow_takes_stay() -> None:
    for name in ("train.lr", "evaluate.recall.cat dog", "evaluate.recall.été", "a/b", "a:b", "test_accuracy"):
        assert mlflow_name(name) == name


def test_names_that_become_one_stay_apart() -> None:
    assert len({mlflow_name(f"evaluate.recall.{name}") for name in ODD}) == len(ODD)


@pytest.mark.parametrize("prefix", ["", "evaluate.recall."])
def test_mlflow_takes_every_name(tmp_path: object, prefix: str) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = client(uri).create_run(client(uri).create_experiment("e")).info.run_id
    names = [prefix + name for name in ODD]
    for _ in range(2):  # a continued run
        log_params(uri, run_id, {name: number for number, name in enumerate(names)})
    log_metrics(uri, run_id, {name: float(number) for number, name in enumerate(names)})
    run = mlflow.MlflowClient(uri).get_run(run_id)
    assert sorted(map(int, run.data.params.values())) == list(range(len(ODD)))
    assert sorted(run.data.metrics.values()) == list(range(len(ODD)))
