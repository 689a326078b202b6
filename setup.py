"""Put prefect.yaml, the data set files and the samples into the wheel: they lie beside the packages in a clone."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("prefect.yaml", "data/*.yaml", "data/samples/*.py")


class BuildWithFiles(build_py):
    """Copy the files into `grayline/_shipped/`, where `flows.stack.deployments` looks for them outside of a clone."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for pattern in SHIPPED:
            for path in Path().glob(pattern):
                to = Path(self.build_lib, "grayline", "_shipped", path)
                to.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(path), str(to))


setup(cmdclass={"build_py": BuildWithFiles})
