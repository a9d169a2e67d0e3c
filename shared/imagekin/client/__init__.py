"""The HTTP client: what a pipeline imports, and what the command line is written on."""

from imagekin.client.exports import Vectors
from imagekin.client.groups import JobGroup, Sending
from imagekin.client.jobs import Job
from imagekin.client.problems import Unreachable, UnreadableAnswer, WaitTimeout
from imagekin.client.service import Client

__all__ = ["Client", "Job", "JobGroup", "Sending", "Unreachable", "UnreadableAnswer", "Vectors", "WaitTimeout"]
