"""What the service tells its operator while it runs: the log of its processes (contract, Health).

Metrics are declared beside the code that they count.
"""
