"""`python -m imagekin_worker --lane bulk`, the same as `imagekin worker --lane bulk`."""

import typer

from imagekin_worker.process.command import worker

if __name__ == "__main__":
    typer.run(worker)
