"""Put conf/ and the YAML files of experiments/ into the package; pyproject.toml has the rest."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigurations(build_py):
    """An editable installation goes on reading them where they lie."""

    def files(self) -> list[str]:
        paths = [*Path("conf").rglob("*.yaml"), *Path("experiments").glob("*.yaml")]
        return sorted(map(str, paths))

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for file in self.files():
                target = Path(self.build_lib, "resnet_cifar", file)
                self.mkpath(str(target.parent))
                self.copy_file(file, str(target))

    def get_source_files(self) -> list[str]:  # what a source distribution has
        return [*super().get_source_files(), *self.files()]


setup(cmdclass={"build_py": BuildWithConfigurations})
