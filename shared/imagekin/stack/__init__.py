"""The embedded stack: Redis, migrations, two workers and the API as one tree of processes (`imagekin up`, `demo`)."""

from imagekin.stack.embedded import Stack
from imagekin.stack.environment import environment
from imagekin.stack.errors import FolderInUse, NoRedis, PortTaken, ServiceFailed, StackError
from imagekin.stack.service import Service
from imagekin.stack.supervisor import Supervisor

__all__ = [
    "FolderInUse",
    "NoRedis",
    "PortTaken",
    "Service",
    "ServiceFailed",
    "Stack",
    "StackError",
    "Supervisor",
    "environment",
]
