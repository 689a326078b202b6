"""What the commands for other frameworks print when they are done."""

from rich.table import Table

from flows.cli.tables import console
from tasks.values import BackendAccuracy, Export, FeatureSet


def show_export(made: Export) -> None:
    """How far the file is from the model, and where it is."""
    version = made.version
    console.print(f"{version.name} version {version.version} as {made.kind}, on {made.count:,} held-out images:")
    table = Table("", "PyTorch", made.kind, "difference", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    points = 100 * (made.accuracy - made.own_accuracy)
    table.add_row("accuracy", f"{made.own_accuracy:.4f}", f"{made.accuracy:.4f}", f"{points:+.2f} points")
    table.add_row("probabilities", "", "", f"at most {made.difference:.1e}")
    console.print(table)
    if made.wrong:
        console.print(f"allowed to differ: {made.wrong}")
    console.print(f"{made.size / 1e6:,.1f} MB in {made.seconds:,.0f} s\n{made.path}")


def show_backend(found: BackendAccuracy) -> None:
    """Both accuracies and speeds, one below the other."""
    version = found.version
    title = f"{version.name} version {version.version} on {found.count:,} held-out images"
    table = Table("by", title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("accuracy", justify="right")
    table.add_column("images/s", justify="right")
    table.add_row("PyTorch", f"{found.own_accuracy:.4f}", f"{found.own_speed:,.0f}")
    table.add_row(found.backend, f"{found.accuracy:.4f}", f"{found.speed:,.0f}")
    console.print(table)
    points = 100 * (found.accuracy - found.own_accuracy)
    console.print(f"{points:+.2f} points apart; a probability differs by at most {found.difference:.1e}")
    console.print()


def show_features(made: FeatureSet) -> None:
    version, shape = made.version, " x ".join(str(side) for side in made.shape)
    again = f", {made.reused:,} of them done in an earlier run" if made.reused else ""
    console.print(
        f"{made.layer} of {version.name} version {version.version}: float32 {shape} for {made.count:,} images{again}, "
        f"in {made.files:,} {made.kind} files"
    )
    console.print(f"{made.folder}")
    console.print()
