"""Processes of the services that have loaded everything before they begin: loading takes a second of CPU, for each of them again.

`python()` is a program to be called like Python. `python -m services.hours ...`, asked for in this checkout, is forked off a process that
has all modules in memory (`tests.forks.server`). It is a process of its own, with the environment, the folder and the files that it was
given, and runs `services/hours/__main__.py`. Whatever else it is asked for, it becomes Python itself. What a process does before its
`main`, how long a start takes and what it needs is for tests that start Python as it is: those of `make up`, the README and the images.
"""
