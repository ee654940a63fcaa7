"""The command line (contract 1).

arguments.py   what can be asked for; the entry point
dispatch.py    the database and the code that each command needs, loaded when it is called
load.py        import and demo;  keys.py, views.py, verify.py: the other commands
"""
