"""Jobs that look at a whole collection: asked for, done by the test's own process, and resumed in others."""

from __future__ import annotations

from typing import Any

import httpx2

from kit.calls import accepted
from kit.crew import Crew
from kit.serving import Running


def asked(client: httpx2.Client, kind: str, **body: Any) -> httpx2.Response:
    return client.post(f"/v1/jobs/{kind}", json={"collection": "archive", **body})


def result_of(client: httpx2.Client, crew: Crew, kind: str, **body: Any) -> dict[str, Any]:
    job = accepted(asked(client, kind, **body))
    crew.work()
    return ended(client, job)


def ended(client: httpx2.Client, job: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a job that succeeded."""
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert (job["status"], job["progress"]["fraction"]) == ("succeeded", 1), job
    return client.get(f"/v1/jobs/{job['id']}/result").json()


def failure_of(client: httpx2.Client, crew: Crew, kind: str, **body: Any) -> str:
    """Return the error's code of a job that failed."""
    job = accepted(asked(client, kind, **body))
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert job["status"] == "failed", job
    return job["error"]["code"]


def resumed(server: Running, client: httpx2.Client, kind: str, processes: int = 4, **body: Any) -> dict[str, Any]:
    """Return the result where the first claims are each done in a process of its own, which remembers nothing."""
    job = accepted(asked(client, kind, **body))
    steps, more = 0, True
    while more:
        crew = Crew(server.settings)
        try:
            more = crew.step()
            steps += more
            if steps >= processes:
                crew.work()
        finally:
            crew.close()
    assert steps > 1
    return ended(client, job)
