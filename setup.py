"""What pyproject.toml cannot say: conf/ and recipes/ stand at the top of the tree and ship inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["cascade", "cascade.*"]), "cascade.conf", "cascade.recipes"],
    package_dir={"cascade.conf": "conf", "cascade.recipes": "recipes"},
)
