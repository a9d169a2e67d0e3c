"""Tuning for this machine: the best arrangement of the cores, found by trial, and networks compiled ahead of time.

Each part goes when it no longer pays. Calibration: when the best of its trials is within 3 % of the defaults on every
backbone of `imagekin bench --only forward`. Compiled networks: when `make benchmarks` shows a gain below 1.1 for both
networks of its table.
"""
