"""A batch of 100 million images on up to 1,024 workers, simulated: `python -m benchmarks simulate_scoring`, by itself.

No machine here has so many workers. So the stages are measured at two or three sizes, with the shipped code. Their time
at the size of the batch is extrapolated from the largest size and the growth up to it. A simulation (`simulation`)
combines the stages: plan and finish alone, in between a driver, Prefect's server and the workers. The two loads are
photographs, where decoding dominates, and images so small that everything else does.

The simulation is checked at a small size: CHECKED small images are scored in a Prefect flow, in normal and in small
parts. The simulated time is compared with the measured one.

Not included: a network between the workers and the files, an object store's listing, machines that die.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from upath import UPath

from benchmarks import prefect_cost
from benchmarks import scoring_rates as rates
from benchmarks.batch import CHOICE, VERSION, WORKERS, fastest, make_classifier, read_all, scoring
from benchmarks.images import scenes
from benchmarks.prefect_cost import Tasks
from benchmarks.rounds import Comparison, Measure, Result, Track
from benchmarks.scale import write_tar
from benchmarks.score import CLASSES, MODEL
from benchmarks.scoring_rates import Finish, Plan, Scored
from benchmarks.simulation import Growth, Job, binding, simulate
from resnet_core.images.limits import DEFAULT_LIMITS
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.inference.engines import Engine
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import Normalisation
from resnet_core.model.resnet import ModelConfig, build
from tasks.batch import finish as finish_batch
from tasks.batch import plan as plan_batch
from tasks.batch.plan import MOST_PARTS
from tasks.batch.score import Scoring, score_part
from tasks.parts import part_size
from tasks.runner import MOST_WAITING, run_all

FILES = 100_000_000
CURVE = (1, 4, 16, 64, 128, 256, 512, 1024)
HEADLINE = 64
SEEDS = (0, 1, 2)
ROUNDS = 2
LISTED = (20_000, 100_000)
PLANNED = (20_000, 2_000_000, 4_000_000)  # DuckDB is on the disk from a million on: two of them beyond it
PARTS = (1_000, 10_000)
TASKS = (250, 1_000)
FINISHED = (10, 100)  # parts of 10,000 rows
PHOTOGRAPHS, SMALL, CHECKED = 300, 6_000, 20_000
SMALL_MODEL, SMALL_SIDE = ModelConfig("resnet10", width=16), 8
PHOTOGRAPH_PARTS, SMALL_PARTS = (10, 75), (100, 1_000)  # files, to measure on
CHECKED_PARTS = (part_size(CHECKED), 100)  # files a part: as it is, and so small that tasks count
LISTERS = 16  # of a listing by prefix


@dataclass(frozen=True)
class Costs:
    """Seconds by size, and images/s of a worker by load."""

    folder: Growth
    tar: Growth
    plan: Plan
    opening: Growth
    tasks: Tasks
    handing: Growth
    commit: Growth
    finish: Finish
    start: float
    part: dict[str, Growth]

    @property
    def task(self) -> float:
        """Seconds of Prefect for one more task. Later records of the server delay nobody."""
        return self.tasks.returned.at(MOST_PARTS) / MOST_PARTS

    @property
    def busy(self) -> float:
        """Seconds of a core that Prefect takes for one more task; workers on the driver's machine lack them."""
        return self.tasks.busy.at(MOST_PARTS) / MOST_PARTS

    def speed(self, load: str) -> float:
        """Images/s of a worker, in the parts of the batch."""
        size = part_size(FILES, most_parts=MOST_PARTS)
        return size / self.part[load].at(size)

    def listing(self, load: str) -> Growth:
        """Photographs lie in folders, small images in a tar."""
        return self.folder if load == "photographs" else self.tar


def run(folder: Path, track: Track) -> Result:
    small, source, checked = small_classifier(), folder / "small.tar", folder / "checked.tar"
    write_tar(source, SMALL)
    write_tar(checked, CHECKED)
    engine = fastest(small)
    photographs = write_photographs(made(folder / "photographs"))
    large = make_classifier(read_all(sorted(photographs.iterdir())))
    large_engine = fastest(large)
    found: list[Costs] = []
    checks: list[tuple[tuple[float, float], ...]] = []
    with prefect_cost.prefect_server(made(folder / "prefect")):
        for number in track(range(ROUNDS)):
            place = made(folder / f"round{number}")
            scored = rates.scored(made(place / "scored"), source, small, engine, SMALL_PARTS)
            slow = rates.scored(made(place / "photographs"), photographs, large, large_engine, PHOTOGRAPH_PARTS)
            costs = measured(place, scored, {"photographs": slow.part, "small images": scored.part})
            again = made(place / "again")  # beside what it is to predict
            scored = rates.scored(again, source, small, engine, SMALL_PARTS)
            costs = replace(costs, start=scored.start, part=costs.part | {"small images": scored.part})
            found.append(costs)
            pair = [check(place, checked, found[-1], small, engine, size) for size in CHECKED_PARTS]
            checks.append(tuple(pair))
    costs = least(found)
    measures = (*stages(costs), *(line for load in costs.part for line in batches(costs, load)))
    setting = (
        f"{FILES:,} files in {MOST_PARTS:,} parts; photographs: 1024x768 JPEG to 64 px, {MODEL.arch}, "
        f"{large_engine.name}; small images: 32x32 PNG in a tar to {SMALL_SIDE} px, {SMALL_MODEL.arch} of width "
        f"{SMALL_MODEL.width}, {engine.name}; measured on {WORKERS} workers side by side, files and rows in the "
        "system's cache. Efficiency: the images alone, at a worker's speed, to the wall clock; in brackets the stage "
        f"that takes most of it. What would be done: list and plan by prefix, {LISTERS} at a time; tallies from the "
        "parts' own outcomes; more parts waiting than there are workers"
    )
    lines = [
        Comparison(
            f"predicted, {CHECKED:,} images in parts of {size:,}", "measured",
            tuple(each[place][0] for each in checks), tuple(each[place][1] for each in checks), unit="s",
        )
        for place, size in enumerate(CHECKED_PARTS)
    ]  # fmt: skip
    return Result("simulate_scoring", setting, tuple(lines), measures)


def measured(folder: Path, scored: Scored, part: dict[str, Growth]) -> Costs:
    """Every stage once."""
    commit = rates.commit(made(folder / "commit"), scored.rows, (1_000, rates.ROWS))
    return Costs(
        rates.listing_of_folder(made(folder / "folder"), LISTED),
        rates.listing_of_tar(made(folder / "tar"), LISTED),
        rates.planning(made(folder / "plan"), PLANNED),
        rates.opening(made(folder / "opening"), PARTS),
        prefect_cost.task_cost(folder, TASKS),
        prefect_cost.handing_over(folder, PARTS),
        commit,
        rates.finishing(made(folder / "finish"), scored.rows, FINISHED),
        scored.start,
        part,
    )


def least(rounds: list[Costs]) -> Costs:
    """Return the quickest round, by stage and size."""
    first, *others = rounds
    for other in others:
        plan, finish = first.plan, first.finish
        first = Costs(
            first.folder.least(other.folder),
            first.tar.least(other.tar),
            Plan(plan.queries.least(other.plan.queries), plan.cut.least(other.plan.cut), plan.spilled),
            first.opening.least(other.opening),
            first.tasks.least(other.tasks),
            first.handing.least(other.handing),
            first.commit.least(other.commit),
            Finish(
                finish.check.least(other.finish.check),
                finish.whole.least(other.finish.whole),
                finish.drift.least(other.finish.drift),
                finish.manifest,
            ),
            min(first.start, other.start),
            {load: part.least(other.part[load]) for load, part in first.part.items()},
        )
    return first


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def small_classifier() -> Classifier:
    network = build(SMALL_MODEL, size=SMALL_SIDE, classes=len(CLASSES)).eval()
    return Classifier(network, SMALL_MODEL, CLASSES, Preprocessing(SMALL_SIDE), Normalisation(0.5, 0.25))


def write_photographs(source: Path) -> Path:
    for number, data in enumerate(scenes(PHOTOGRAPHS)):
        (source / f"{number:05}.jpg").write_bytes(data)
    return source


def batch_job(costs: Costs, load: str) -> Job:
    """The batch as it is shipped."""
    size = part_size(FILES, most_parts=MOST_PARTS)
    count = -(-FILES // size)
    before = costs.listing(load).at(FILES) + costs.plan.at(FILES) + costs.start
    after = costs.finish.at(FILES) + 3 * costs.handing.at(count)  # three tasks are given all parts
    return Job(
        count, size / costs.speed(load) + costs.opening.at(count) + costs.busy, costs.task, before, after, MOST_WAITING
    )


def improved(costs: Costs, load: str) -> Job:
    """Return the job with possible improvements.

    List and plan by prefix or archive, LISTERS at a time. Take tallies and drift from the parts' own outcomes.
    Keep twice as many parts waiting as there are workers.
    """
    job = batch_job(costs, load)
    before = (costs.listing(load).at(FILES) + costs.plan.at(FILES)) / LISTERS + costs.start
    return replace(job, before=before, after=3 * costs.handing.at(job.parts), most_waiting=2 * max(CURVE))


def batches(costs: Costs, load: str) -> list[Measure]:
    """Simulate a load."""
    job, better = batch_job(costs, load), improved(costs, load)
    lines = [
        Measure(f"{load}: a worker", (costs.speed(load),), "images/s"),
        Measure(f"{load}: wall clock, {HEADLINE} workers", clocks(job, HEADLINE), "s"),
    ]
    for workers in CURVE:
        lines.append(Measure(f"{load}: efficiency, {workers:,} workers ({binding(job, workers)})",
                             efficiencies(job, costs, load, workers), "%"))  # fmt: skip
    for workers in (HEADLINE, *CURVE[-3:]):
        what = f"{load}: efficiency, {workers:,} workers, what would be done ({binding(better, workers)})"
        lines.append(Measure(what, efficiencies(better, costs, load, workers), "%"))
    return lines


def clocks(job: Job, workers: int) -> tuple[float, ...]:
    return tuple(simulate(job, workers, seed) for seed in SEEDS)


def efficiencies(job: Job, costs: Costs, load: str, workers: int) -> tuple[float, ...]:
    """In percent: the images alone, at a worker's speed, spread over all workers, to the wall clock."""
    bare = FILES / costs.speed(load) / workers
    return tuple(round(100 * bare / spent, 2) for spent in clocks(job, workers))


def stages(costs: Costs) -> list[Measure]:
    """Return the measured costs, and those at the size of the batch."""
    size = part_size(FILES, most_parts=MOST_PARTS)
    count, last = -(-FILES // size), costs.plan.cut.sizes[-1]
    found = {
        "listing, folders of empty files": (costs.folder, FILES),
        "listing, a tar": (costs.tar, FILES),
        "plan, DuckDB": (costs.plan.queries, FILES),
        "plan, cutting parts": (costs.plan.cut, FILES),
        "finish, the check": (costs.finish.check, FILES),
        "finish, all of it": (costs.finish.whole, FILES),
        "drift, reading the rows": (costs.finish.drift, FILES),
        "Prefect, tasks returned": (costs.tasks.returned, count),
        "Prefect, tasks recorded, later": (costs.tasks.recorded, count),
        "Prefect, seconds of a core": (costs.tasks.busy, count),
        "Prefect, a task that is given all parts": (costs.handing, count),
        "a worker, finding its part": (costs.opening, count),
    }
    lines = [Measure("parts", (count,)), Measure("files a part", (size,))]
    for what, (growth, at) in found.items():
        sizes = " / ".join(f"{size:,}" for size in growth.sizes)
        lines.append(Measure(f"{what}: {sizes}", growth.seconds, "s"))
        lines.append(Measure(f"{what}: exponent", (growth.exponent,)))
        lines.append(Measure(f"{what}: {at:,}", (growth.at(at),), "s"))
    return [
        *lines,
        Measure("the workers' start", (costs.start,), "s"),
        Measure(f"a part's file of {size:,} rows, flushed", (costs.commit.at(size),), "s"),
        Measure("Prefect, one task", (1000 * costs.task,), "ms"),
        Measure("manifest, a part", (costs.finish.manifest,), "bytes"),
        Measure("manifest", (costs.finish.manifest * count / 1e6,), "MB"),
        Measure("disk that the plan takes", (costs.plan.spilled / last * FILES / 1e9,), "GB"),
    ]


def check(
    folder: Path, source: Path, costs: Costs, classifier: Classifier, engine: Engine, size: int
) -> tuple[float, float]:
    """Seconds that the simulation says, and those that a flow took, in parts of `size` files."""
    output, spent = UPath(folder / f"checked{size}"), []

    def work() -> None:
        batch = plan_batch.plan_batch(str(source), output, VERSION, classifier.preprocessing)
        how = Scoring(VERSION, CHOICE, "", "cpu", DEFAULT_LIMITS, batch.run)
        run_all(lambda part: score_part.submit(part, how), batch.waiting, lambda outcome: None)
        finish_batch.finish_batch(batch, 1.0)

    with scoring(classifier, engine), patch.object(plan_batch, "part_size", partial(rates.fixed, size)):
        prefect_cost.flow_of(lambda: spent.append(rates.seconds(work)))
    count = -(-CHECKED // size)
    part = costs.part["small images"].at(size) + costs.opening.at(count) + costs.tasks.busy.at(count) / count
    before = costs.tar.at(CHECKED) + costs.plan.at(CHECKED) + costs.start
    after = costs.finish.whole.at(CHECKED) + 2 * costs.handing.at(count)
    job = Job(count, part, costs.tasks.returned.at(count) / count, before, after, MOST_WAITING)
    return float(np.median(clocks(job, WORKERS))), spent[0]
