"""Puts all of what is played here before moto's own."""

from tests.deploy.played import api, ecr, resources


def install() -> None:
    """Call once, before moto serves."""
    api.install()
    resources.install()
    ecr.install()
