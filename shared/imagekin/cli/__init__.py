"""The command line: commands built on the client, and those of the service's packages if they are installed."""

from imagekin.cli.app import main

__all__ = ["main"]
