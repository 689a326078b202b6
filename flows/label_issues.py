"""Label issues: training labels that are probably wrong, found by classifiers that have not seen them."""

from prefect import flow

from flows.cross_validate import run_folds
from tasks.dataset import load_dataset
from tasks.runner import run_name, task_runner
from tasks.training.cross_validate import check_folds
from tasks.training.label_issues import LabelIssues, find_label_issues
from tasks.workspace import workspace


@flow(name="label-issues", flow_run_name=run_name, task_runner=task_runner())
def label_issues(dataset: str, folds: int = 5) -> LabelIssues:
    """Cross-validate, then list the training images whose labels the other folds' classifiers contradict.

    The result is a table of all labels, probable errors first. Correct it and name it as `labels`.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml.
        folds: Number of folds; 5 trains 5 times, each time on four fifths.
    """
    check_folds(folds)
    data = load_dataset(dataset)
    here = workspace(data)
    predictions, shard_set = run_folds(data, folds, here)
    return find_label_issues(predictions, shard_set, data, here)
