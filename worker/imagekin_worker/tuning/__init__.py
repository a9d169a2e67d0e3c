"""Faster on this machine: the cores' arrangement found by trial, and networks compiled ahead of time."""
