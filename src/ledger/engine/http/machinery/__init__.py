"""Code that every request passes before its route, and every answer after it.

connection.py, heads.py                  below the application: the limits of a connection
middleware.py, cors.py                    around every answer
headers.py, bodies.py                    a request's headers and body, and the coding of its answer
"""
