"""The flows as functions: a night, a batch, and their tables in a notebook."""

import dataclasses
from html import escape
from pathlib import Path
from typing import Any

from flows.cli.options import check, persons_list, ready
from grayline._html import picture, table
from resnet_core.credentials import public
from resnet_core.storage.files import to_output
from tasks import values
from tasks.batch import values as batch_values
from tasks.batch.folder import check_places

_PLOTS = ("confusion_matrix", "reliability")  # files of an evaluation, without .png


@dataclasses.dataclass(frozen=True, repr=False)
class Evaluation(values.Evaluation):
    """The held-out metrics of a night."""

    def __repr__(self) -> str:
        return f"<accuracy {self.metrics['accuracy']} on {self.count:,} held-out images>"

    def _repr_html_(self) -> str:
        rows = [(name.replace("_", " "), str(interval)) for name, interval in self.metrics.items()]
        page = table(f"{self.count:,} held-out images", ("metric", "found"), rows)
        plots = {name: self.folder / f"{name}.png" for name in _PLOTS}
        return page + "".join(picture(name, path.read_bytes()) for name, path in plots.items() if path.exists())


@dataclasses.dataclass(frozen=True, repr=False)
class Night(values.Night):
    """The outcome of a night; `evaluation`, `version` and `decision` are its parts."""

    def __repr__(self) -> str:
        from tasks.report.night_page import headline

        return f"<{headline(self)}>"

    def _repr_html_(self) -> str:
        from tasks.report.night_page import headline, summary

        page = table(headline(self), ("stage", ""), summary(self))
        if self.decision and self.decision.checks:
            rows = [(c.name, "passed" if c.passed else "failed", c.wanted, c.found) for c in self.decision.checks]
            page += table("Gate", ("check", "verdict", "wanted", "found"), rows)
        return page + (Evaluation(**_fields(self.evaluation))._repr_html_() if self.evaluation else "")


@dataclasses.dataclass(frozen=True, repr=False)
class Scores(batch_values.Scores):
    """A finished batch; `parts` are Parquet files with a row per file."""

    def __repr__(self) -> str:
        return f"<{self.headline()}>"

    def _repr_html_(self) -> str:
        rows = [(label, f"{count:,}", f"{confidence:.3f}") for label, (count, confidence) in self.labels.items()]
        page = table(self.headline(), ("label", "images", "mean confidence"), rows)
        if self.reasons:
            page += table("Not scored", ("reason", "files"), [(text, f"{n:,}") for text, n in self.reasons.items()])
        return page + escape(self.speed())


def retrain(dataset: str | Path) -> Night:
    """Run the nightly flow on a data set file, as `grayline retrain` does.

    Raises UserError for wrong input, and JobError for a night that fails.
    """
    check(str(dataset))
    from flows.nightly_retrain import nightly_retrain

    night = nightly_retrain(str(dataset))
    evaluation = night.evaluation and Evaluation(**_fields(night.evaluation))
    return Night(**_fields(night) | {"evaluation": evaluation})


def classify_batch(source: str | Path, output: str | Path | None = None, model: str | None = None) -> Scores:
    """Score every image of a source, as `grayline classify-batch` does. Raises UserError for wrong input.

    Secrets of a URL stay in this process. Its protocol and host must be allowed by the settings.
    """
    place, to = public(str(source)), None if output is None else public(str(output))
    with persons_list(place):
        check_places(place, None if to is None else to_output(to, "output"))
        ready()
        from flows.classify_batch import classify_batch as flow

        return Scores(**_fields(flow(place, to, model)))


def _fields(result: Any) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
