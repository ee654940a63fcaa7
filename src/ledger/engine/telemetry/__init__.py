"""What the operator reads while the service runs: the log of its processes (contract, Health).

Metrics are declared next to the code that they count.
"""
