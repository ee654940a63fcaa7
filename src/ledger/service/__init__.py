"""The service as processes of one machine.

supervisor.py   starts PostgreSQL and the other processes, and keeps them running
children.py     such a process, and the embedded PostgreSQL: started again when they end
workers.py      the work of each of these processes
composition/    the composition root: the only place that puts the parts together
processes.py    the end, the memory and the open files of every process
address.py      the address of the running service, for commands on the same machine
"""
