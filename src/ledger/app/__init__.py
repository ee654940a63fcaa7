"""The service as processes of one machine.

supervisor.py   starts PostgreSQL and the other processes, and keeps them running
children.py     such a process, and the embedded PostgreSQL: started again when they end
workers.py      the work of each of these processes
composition/    the composition root: the only place that puts the parts together
http/           the application: all routes and pages, and what describes the service
cli/            the command line
demo/           the story of ``ledger demo``
features.py     what each feature adds to the processes
settings.py     the settings of the service
processes.py    the end, the memory and the open files of every process
address.py      the address of the running service, for commands on the same machine

A role of a node says which of these processes run there (contract, Several nodes).
"""

from typing import Literal, get_args

Role = Literal["all", "api", "loops", "read"]

ROLES: tuple[Role, ...] = get_args(Role)


def leads(role: str) -> bool:
    """True if a node of this role may lead loops."""
    return role in ("all", "loops")


def serves(role: str) -> bool:
    """True if a node of this role serves the API and the pages; others answer probes only."""
    return role != "loops"
