"""The command line (contract, Command line).

arguments.py   the commands and their options; the entry point
dispatch.py    the database and the code that each command needs, loaded when it is called
backups/       make a backup, and restore it
files/         the formats of files that import takes
load.py        import and demo;  keys.py, persons.py, views.py, verify.py: the other commands
"""
