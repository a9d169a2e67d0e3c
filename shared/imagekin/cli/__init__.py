"""The command line: commands over the client, and those of the service's packages where they are installed."""

from imagekin.cli.app import main

__all__ = ["main"]
