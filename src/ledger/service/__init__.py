"""The service as processes of one machine.

supervisor.py   starts PostgreSQL and the other processes, and keeps them running
workers.py      what each of these processes runs
composition/    the one place that knows how the parts fit together
processes.py    what every process does about signals, memory and open files
address.py      where the service listens, for commands on the same machine
"""
