"""The commands about labels. Heavy imports wait inside the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import DatasetFile, check, choice
from flows.cli.scores import seer_of_batch
from flows.cli.tables import console, number, say, table
from resnet_core.errors import UserError, plural
from tasks.settings import Settings

if TYPE_CHECKING:
    from resnet_core.annotations.people import Annotators
    from tasks.training.label_issues import LabelIssues

app = typer.Typer()


@app.command("label-issues")
def label_issues_command(
    dataset: DatasetFile,
    folds: Annotated[int, typer.Option(help="Number of folds of the training images.")] = 5,
) -> None:
    """List the training labels that are probably wrong: train once per fold, then write a table to correct."""
    from tasks.training.cross_validate import check_folds

    check_folds(folds)
    check(dataset)
    from flows.label_issues import label_issues

    _show_label_issues(label_issues(dataset, folds))


@app.command("review")
def review_command(
    batch: Annotated[
        list[str],
        typer.Argument(help="Outputs of batches by one version, or names under scores/; or a queue, to read labels."),
    ],
    budget: Annotated[int, typer.Option(help="Number of images that a person is to label.")] = 100,
    random: Annotated[float, typer.Option(help="Share drawn at random: it tells the accuracy without bias.")] = 0.2,
    to: Annotated[str, typer.Option(help="The folder to make: page, list, pictures, files of tools.")] = "review",
    labels: Annotated[
        str | None, typer.Option(help="Labels of a queue: the page's export or a tool's; by default its own list.")
    ] = None,
    annotators: Annotated[str, typer.Option(help="Several answers for an image: agree, or majority.")] = "agree",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Write the labels of a queue as a table for `corrections:`.")
    ] = None,
    in_clear: Annotated[bool, typer.Option(help="Write the images of an encrypted version's batch, too.")] = False,
) -> None:
    """Pick the images that a person should label next; later, read their labels and print the accuracy."""
    from tasks.review.answers import is_queue

    queues = [place for place in batch if is_queue(place)]
    if queues and len(batch) > 1:
        raise UserError(f"BATCH: {queues[0]} is a queue. Name one queue to read its labels, or batches to make one.")
    if queues:
        _read_queue(batch[0], labels, choice("--annotators", annotators, ("agree", "majority")), output)
        return
    if labels or output:
        raise UserError(
            f"--{'labels' if labels else 'output'}: {batch[0]} is not a queue. Name a folder that review made."
        )
    _make_queue(batch, budget, random, to, in_clear)


def _make_queue(places: list[str], budget: int, random: float, to: str, in_clear: bool) -> None:
    from tasks.report.gallery_page import check_options
    from tasks.report.sorted_files import check_folder
    from tasks.review.files import PAGE, write_queue
    from tasks.review.queue import check_sizes, find_batches, make_queue
    from tasks.store import Store

    store = Store(Settings().root)
    check_sizes(budget, random)
    batches = find_batches(places, store)
    for each in batches:
        check_options(each, budget, (), in_clear)
        folder = check_folder(to, each.scores, copy=False)
    queue = make_queue(batches, budget, random, store)
    written = write_queue(queue, folder, Settings().limits, seer_of_batch(queue.batch.scores))
    counts = ", ".join(f"{count:,} {why}" for why, count in queue.picks.why.items())
    say(f"{plural(len(queue.why), 'image')} of {queue.images:,} to label: {counts}")
    if queue.labelled:
        text = plural(queue.labelled, "image has", "images have")
        say(f"{text} a label in the catalog: only the random part may ask for it again")
    if len(queue.why) < budget:
        say("the others are near-duplicates of these, or have labels")
    if queue.by_probabilities:
        say("the rows have no embeddings (`classify-batch --embeddings`): images are told apart by their probabilities")
    if written.unseen:
        say(f"{plural(written.unseen, 'image')} cannot be read any more, and have no picture")
    if written.unwritable:
        name = ascii(written.unwritable[0])
        say(f"XML cannot hold the class {name}: label-studio-config.txt and cvat.xml are left out. Rename the class.")
    say(f"{written.folder / PAGE} (export its labels, and name them as `corrections:`; docs/review.md has the tools)")
    say(f"then: grayline review {written.folder} --labels FILE")


def _read_queue(place: str, labels: str | None, annotators: Annotators, output: str | None) -> None:
    from tasks.review.answers import read_answers, write_corrections

    answers = read_answers(place, labels, annotators)
    say(f"{plural(len(answers.rows), 'image')} of the queue have labels")
    if answers.foreign:
        say(f"{plural(answers.foreign, 'label is of an image', 'labels are of images')} not in it")
    for label, paths in answers.strange.items():
        say(f"{label!r} is no class of {answers.model}: {plural(len(paths), 'image')}, such as {paths[0]}")
    say(answers.accuracy())
    if output:
        say(f"{write_corrections(answers.rows, output)} (name it as `corrections:` in the data set file)")


def _show_label_issues(result: LabelIssues) -> None:
    """Print the worst labels, and where the table and the sheet are."""
    title = f"{result.dataset}: {result.issues:,} of {plural(result.images, 'training label')} look wrong"
    rows = table("", "label", "rather", number("confidence in its label"), "image", title=title)
    for rank, (uri, label, suggested, confidence) in enumerate(result.worst, 1):
        rows.add_row(str(rank), label, suggested, f"{confidence:.3f}", uri)
    console.print(rows)
    if result.issues > len(result.worst):
        say(f"and {result.issues - len(result.worst):,} more")
    if result.sheet:
        say("", f"to look at: {result.sheet}")
    say(f"to correct: {result.table} (then name it as `labels:` in the data set file)")
    say(f"run {result.mlflow_run_id} in {Settings().tracking_uri}")
