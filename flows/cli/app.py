"""The command line: `grayline --help`.

Exit status 0: done. 1: the job failed. 2: the input is wrong, explained in one line on stderr.
Heavy imports wait inside the commands, so that `--help` and a wrong path answer at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from typer.exceptions import TyperException
from typer.main import get_command

from flows.cli import begin, demo, frameworks, labels, predict, scores, stages, store, versions
from flows.cli.options import check_words, public_words
from flows.cli.tables import console, say, table
from flows.machine.interrupt import stoppable
from resnet_core.errors import JobError, UserError
from resnet_core.storage.files import disk_full, refused_by_disk, says_full
from tasks.progress import complain, show_defect, show_log_lines
from tasks.settings import Settings, prepare_environment
from tasks.validation import invalid

_Datasets = Annotated[
    list[str] | None, typer.Argument(metavar="DATA.yaml", help="Data set files; each gets its nights.")
]
app = typer.Typer(
    name="grayline",
    help="Retrain a grayscale ResNet image classifier every night, and score image collections in bulk.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
for group in (demo, begin, stages, labels, predict, scores, versions, frameworks, store):
    app.add_typer(group.app)
app.add_typer(store.catalog, name="catalog")


@app.callback()
def _begin(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Retrain a grayscale ResNet image classifier every night, and score image collections in bulk."""
    if version:
        from importlib.metadata import version as installed

        say(f"grayline {installed('grayline')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        begin.show_beginning()


def main() -> None:
    """Run a command; turn the user's errors into one line and status 2."""
    with stoppable():
        sys.exit(_status())


def _status() -> int:
    try:
        sys.excepthook = show_defect
        prepare_environment()
        show_log_lines(Settings().logs)
        command, words = get_command(app), sys.argv[1:]
        check_words(words, command)
        return command(public_words(words), standalone_mode=False, prog_name="grayline") or 0
    except typer.Abort:
        return 130
    except TyperException as error:
        if text := _in_a_line(error):
            complain(UserError(text))
        return 2
    except (UserError, JobError) as error:
        complain(error)
        return 2 if isinstance(error, UserError) else 1
    except Exception as error:  # errors other than those of a disk or a server keep their traceback
        if says_full(error):
            complain(disk_full(Settings().root))
            return 1
        if refused := refused_by_disk(error):
            complain(refused)
            return 1
        if not _is_of_a_server(error):
            raise
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        complain(JobError(f"a server gave no answer ({text[:300]}). `grayline doctor` says more; then run it again."))
        return 1


def _is_of_a_server(error: Exception) -> bool:
    """Return whether a client of Prefect, MLflow or a database raised it: the server's fault, or its line's."""
    if getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":  # it has answered: a defect of ours
        return False
    clients = {"httpx", "mlflow", "requests", "sqlalchemy", "sqlite3", "urllib3"}
    names = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(names & clients) or type(error).__name__ == "PrefectHTTPStatusError"


def _in_a_line(error: TyperException) -> str:
    """Return what is wrong with the command line; nothing where the help has been shown."""
    option = next(iter(getattr(getattr(error, "param", None), "opts", [])), "")
    if isinstance(error.__cause__, ValidationError):
        return f"{option}: {invalid(error.__cause__)}"
    said = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    return f"{said} See `{context.command_path if context else 'grayline'} --help`." if said else ""


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A deployment: classify-batch, nightly-retrain, ...")],
    param: Annotated[list[str] | None, typer.Option(help="A parameter, key=value; repeat it for more.")] = None,
    watch: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's own lines, too.")] = False,
) -> None:
    """Run a deployment on the Prefect server, and print what came out."""
    from flows.stack.runs import run_deployment

    sys.exit(run_deployment(name, param or [], watch, verbose))


@app.command()
def up(
    datasets: _Datasets = None,
    public: Annotated[bool, typer.Option("--public", help="Behind a proxy with TLS; see docs/security.md.")] = False,
) -> None:
    """Start Prefect, MLflow and a worker, and make all deployments; `make up` is the same."""
    from flows.stack.local import up as start

    start([Path(file).absolute() for file in datasets or ()], public)


@app.command()
def down() -> None:
    """Stop the processes that `grayline up` started in this store."""
    from flows.stack.local import down as stop

    stop()


@app.command()
def deploy(
    datasets: _Datasets = None,
) -> None:
    """Make the work pool and all deployments on a server of your own, named by PREFECT_API_URL."""
    from flows.machine.doctor import check_prefect
    from flows.stack.deployments import deploy_there

    check_prefect()
    deploy_there([Path(file).absolute() for file in datasets or ()])


@app.command()
def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also hold databases, registry, catalogs, shards and rows together.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="With --deep: remove drafts and torn files that are made again.")
    ] = False,
) -> None:
    """Check the installation, and print the remedy of each failure."""
    from flows.machine.doctor import examine

    if repair and not deep:
        raise UserError("--repair: needs --deep, which finds what to repair.")
    passed = True
    for name, ok, text in examine():
        passed &= ok
        console.print("ok   " if ok else "fails", style="green" if ok else "red", end=" ")
        say(f"{name:<10} {text}")
    if deep and passed:
        passed = _audit(repair)
    sys.exit(0 if passed else 1)


def _audit(repair: bool) -> bool:
    """Print what disagrees, with the command that mends it. Returns whether nothing is left."""
    from flows.machine.audit import audit
    from tasks.workspace import workspace

    rows, left = table("where", "what is wrong", "mend it with"), 0
    for found in audit(workspace().with_known_keys()):
        mended = repair and found.mend is not None
        if mended and found.mend:
            found.mend()
        left += not mended
        rows.add_row(found.place, found.wrong, found.mended if mended else found.remedy)
    if rows.row_count:
        console.print(rows)
    else:
        say("databases, registry, catalogs, shards, rows and engines agree")
    return not left


if __name__ == "__main__":
    main()
