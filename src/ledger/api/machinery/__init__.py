"""What every request passes before its route, and every answer after it.

connection.py, heads.py, pipelining.py   below the application: what a connection may send
middleware.py, compression.py, head.py   around every answer
lean.py, headers.py, bodies.py           a request as a route takes it
"""
