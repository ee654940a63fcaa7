"""The roles of a node: which of the service's processes run there (contract, Several nodes)."""

from typing import Literal, get_args

Role = Literal["all", "api", "loops", "read"]

ROLES: tuple[Role, ...] = get_args(Role)


def leads(role: str) -> bool:
    """Whether a node of this role may lead loops."""
    return role in ("all", "loops")


def serves(role: str) -> bool:
    """Whether a node of this role serves the API and the page; else it answers probes only."""
    return role != "loops"
