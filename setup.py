"""Names the packages; everything else is in pyproject.toml.

tasks/ and gin_configs/ lie at the top of the repository and are imported as subpackages of mrt5_jax, since a top-level
name "tasks" would be shadowed by any user's own folder. Discovery cannot see that mapping, hence these lines.
"""

from setuptools import find_packages, setup

MAPPED = {"mrt5_jax.tasks": "tasks", "mrt5_jax.gin_configs": "gin_configs"}

setup(
    packages=[*find_packages(include=["mrt5_jax", "mrt5_jax.*"]), *MAPPED],
    package_dir={"mrt5_jax": "mrt5_jax", **MAPPED},
)
