"""Make the reference pages of docs/ from the code: `python -m tests.reference` writes them.

page         made from
commands.md  the commands of `flows.cli.app`
settings.md  the fields of `tasks.settings.Settings`
store.md     its first table: `tasks.store.LAYOUT`
ignored.md   the names of `resnet_core.storage.ignored`
metrics.md   `resnet_core.evaluation.metrics.METRICS`
gate.md, dataset-file.md  the key `metric`: `resnet_core.evaluation.metrics.GATE_METRICS`
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import typer
from pydantic_core import PydanticUndefined
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from flows.cli.app import app
from resnet_core.evaluation.metrics import CALIBRATION_BINS, GATE_METRICS, METRICS
from resnet_core.storage.ignored import DOCUMENT_SUFFIXES, DOCUMENTS, IGNORED, OWN_MARKS
from tasks.settings import Settings, variables
from tasks.store import LAYOUT

DOCS = Path(__file__).parents[1] / "docs"
_NOTICE = "<!-- Written by `python -m tests.reference`. Edit the help texts in the code instead. -->\n"
_HIDDEN = (".git", ".DS_Store", "._1.png", ".thumbnails")
_FOREIGN = {
    "mlflow_tracking_uri": "MLflow's server, its own variable; by default SQLite in the store.",
    "mlflow_backend_store_uri": "The database of the MLflow server that `grayline up` starts, MLflow's own variable.",
    "mlflow_artifacts_destination": "Where that server keeps artifacts, such as s3://..., MLflow's own variable.",
    "prefect_server_database_connection_url": "The database of the Prefect server that `grayline up` starts, its own.",
    "mlflow_tracking_username": "The user at MLflow's server, its own variable; `grayline up` takes it for its server.",
    "mlflow_tracking_password": "The password at that server, its own variable; `grayline up` takes it for its server.",
    "prefect_api_auth_string": "USER:PASSWORD at Prefect's server, its own variable.",
    "prefect_server_api_auth_string": "USER:PASSWORD that `grayline up` takes for Prefect's server; else it makes one.",
    "prefect_api_url": "Prefect's server, its own variable; by default a temporary one per command.",
    "ray_address": "The Ray cluster, its own variable; by default the cluster that this machine is in.",
}

_FORMULAS = {
    "accuracy": "right images / images",
    "balanced_accuracy": "mean over classes k of `TP_k / (TP_k + FN_k)`",
    "macro_f1": "mean over classes k of `2 TP_k / (2 TP_k + FP_k + FN_k)`",
    "roc_auc": "share of pairs (an image of the class, one of another) in the right order, ties half; of more than two "
    "classes, the mean of each against the rest",
    "calibration_error": f"sum over {CALIBRATION_BINS} bins b of equal width of the confidence: `n_b / n` times the "
    "difference of accuracy and mean confidence in b",
    "nll": "mean of `-log p(true class)`",
    "brier": "mean over images of the sum over classes k of `(p_k - y_k)^2`, 0 to 2",
}


def commands(group: TyperGroup | None = None, prefix: str = "") -> Iterator[tuple[str, TyperCommand]]:
    """Yield every command with its full name, such as `catalog diff`."""
    group = group or typer.main.get_group(app)
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{name} ")
        elif isinstance(command, TyperCommand):
            yield f"{prefix}{name}", command


def words(parameter: TyperArgument | TyperOption) -> list[str]:
    """Return the words that a person types or reads: `--output`, `-o`, or `NAME` for an argument."""
    if isinstance(parameter, TyperArgument):
        return [parameter.metavar or str(parameter.name).upper()]
    return [*parameter.opts, *parameter.secondary_opts]


def settings() -> Iterator[tuple[str, str, str]]:
    """Yield the environment variable, the default and the meaning of every setting."""
    for name, field in Settings.model_fields.items():
        variable = variables()[name]
        default = "" if field.default in (None, PydanticUndefined) else f"`{field.default}`"
        yield variable, default, field.description or _FOREIGN[name]


def commands_page() -> str:
    """Return docs/commands.md."""
    text = ["# Commands\n", _NOTICE, "`grayline --help` and `grayline COMMAND --help` print the same texts.\n"]
    for name, command in commands():
        usage = [_usage(parameter) for parameter in command.params if isinstance(parameter, TyperArgument)]
        text.append(f"## `grayline {' '.join([name, *usage])}`\n\n{(command.help or '').strip()}\n")
        if rows := [_row(parameter) for parameter in command.params]:
            text.append("| option or argument | default | meaning |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join(text)


def _usage(argument: TyperArgument) -> str:
    name = words(argument)[0] + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _row(parameter: TyperArgument | TyperOption) -> str:
    if parameter.required:
        default = "required"
    elif isinstance(parameter.default, bool):
        default = "on" if parameter.default else "off"
    else:
        default = "" if parameter.default is None else f"`{parameter.default}`"
    return f"| {', '.join(f'`{word}`' for word in words(parameter))} | {default} | {parameter.help} |"


def settings_page() -> str:
    """Return docs/settings.md."""
    rows = "\n".join(f"| `{name}` | {default} | {meaning} |" for name, default, meaning in settings())
    return (
        f"# Settings of the machine\n\n{_NOTICE}\n"
        "These environment variables are read by every command. The keys of a data set file are in\n"
        "[dataset-file.md](dataset-file.md).\n\n"
        "Or write them into `grayline.toml` in the working folder, or into the file that `GRAYLINE_SETTINGS` names.\n"
        "Its keys are the variables in small letters without `grayline_`; variables that are set win. A file with\n"
        "secrets needs mode 0600; no other user may write it. `[environment]` holds variables of other programs.\n\n"
        "```toml\n"
        'store = "/srv/grayline/store"\n'
        "keep_days = 60\n"
        'alerts_file = "/srv/grayline/alerts"\n'
        'mlflow_tracking_uri = "https://mlflow.example.com"\n\n'
        "[environment]\n"
        'AWS_PROFILE = "grayline"\n'
        "```\n\n"
        f"| variable | default | meaning |\n| --- | --- | --- |\n{rows}\n\n"
        "`grayline up` runs its deployments in the folder that it was started in.\n"
    )


def store_page() -> str:
    """Return docs/store.md with the current layout; the rest of the page is kept."""
    page = (DOCS / "store.md").read_text(encoding="utf-8")
    rows = "".join(f"| `{place.path}` | {place.content} | {place.written_by} |\n" for place in LAYOUT)
    return re.sub(r"(\| path \|.*\n\| --- .*\n)(?:\|.*\n)+", lambda table: table[1] + rows, page, count=1)


def ignored_page() -> str:
    """Return docs/ignored.md."""
    rows = [f"| a dot or `~$` at the beginning | hidden, and {_names(_HIDDEN)} |"]
    for line in IGNORED:
        parts = [f"folders {_names(line.folders)}", f"files {_names(line.files)}", _names(line.suffixes)]
        filled = (part for part, names in zip(parts, line[1:], strict=True) if names)
        rows.append(f"| {line.what} | {'; '.join(filled)} |")
    documents = f"{_names(DOCUMENTS)}, alone, with words behind hyphens, or with {_names(DOCUMENT_SUFFIXES)}"
    return (
        f"# Ignored files\n\n{_NOTICE.replace('help texts', 'list')}\n"
        "Files of these names are never images. They are neither trained on nor scored. The night's summary counts\n"
        "them; the manifest of a batch names them. The list is the same for folders, globs, zip, tar and URLs. Case\n"
        "does not matter. A folder's name ignores all files in it, at any depth.\n\n"
        "| put there by, or for | names |\n| --- | --- |\n" + "\n".join(rows) + f"\n| documents | {documents} |\n\n"
        f"Folders below the source that hold {_names(sorted(OWN_MARKS))} are Grayline's own\n"
        "outputs: stores, batches, feature sets. They are left out as a whole, and named.\n"
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names if name.isprintable() and name.isascii()) or "`Icon`"


def metrics_page() -> str:
    """Return docs/metrics.md."""
    rows = [
        f"| `{name}` | {metric.about} | {_FORMULAS[name]} | {'highest' if metric.higher_is_better else 'lowest'} | "
        f"{'yes' if name in GATE_METRICS else 'no'} |"
        for name, metric in METRICS.items()
    ]
    return (
        f"# Metrics\n\n{_NOTICE.replace('help texts', 'list')}\n"
        "All are of the held-out images, with 95% intervals over 1,000 bootstrap samples\n"
        "([evaluation.md](evaluation.md#intervals)). `TP_k` images were rightly given class k, `FP_k` wrongly. `FN_k`\n"
        "are of class k and were given another. A class without images has no part in a mean.\n\n"
        "| metric | is | formula | best | `gate: {metric: ...}` |\n| --- | --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n\nThe first three count decisions, by costs and required recalls if there are any. The others are of the\n"
        "probabilities. MLflow has each as `test_<metric>`. Recall, precision and F1 are listed by class, too.\n"
    )


def page_with_metrics(name: str) -> str:
    """Return a page whose key `metric` lists the gate's metrics; the rest of the page is kept."""
    page = (DOCS / name).read_text(encoding="utf-8")
    return re.sub(r"(  metric: accuracy +# ).*", lambda line: line[1] + ", ".join(GATE_METRICS), page)


PAGES = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "store.md": store_page,
    "ignored.md": ignored_page,
    "metrics.md": metrics_page,
    "gate.md": partial(page_with_metrics, "gate.md"),
    "dataset-file.md": partial(page_with_metrics, "dataset-file.md"),
}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
