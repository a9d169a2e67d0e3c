"""`imagekin bench`: every speed that imagekin promises, measured on this machine, each as a ratio in one run.

A row of the report is a function that takes the `Workbench` and gives a `Figure`; `rows.py` lists them with their
goals. What several rows need (a running service, the rates of the stages) the workbench makes once.
"""
