"""Faults in the middle of a command: afterwards the same command ends with the results of an undisturbed run.

python -m tests.faults --rounds N --seed S [--engine ray] [--step NAME] [--fault NAME]
"""
