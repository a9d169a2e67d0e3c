"""A webhook on its way from a real worker to its receiver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from imagekin import Client
from imagekin.stack import Stack
from kit.patience import until
from kit.receiving import answer, receiver


def attempts(service: Stack, job_id: str, count: int) -> list[dict[str, Any]]:
    """Wait until a job shows so many attempts, and return them."""

    def shown() -> list[dict[str, Any]] | None:
        answer = httpx2.get(f"{service.url}/v1/jobs/{job_id}", trust_env=False).raise_for_status()
        found = answer.json()["deliveries"]
        return found if len(found) >= count else None

    return until(shown, f"{count} attempts")


def test_jobs_that_end_call_back_until_they_are_heard(service: Stack, client: Client, tmp_path: Path) -> None:
    noise = np.random.default_rng(7).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    client.create_collection("calls-back", backbone="fake")
    with receiver() as there:
        embed = client.embed(tmp_path, collection="calls-back", callback_url=f"{there.url}/embed")
        said = there.wait(1, timeout_s=60)[0].verified()
        assert said["type"] == "job.partial"
        assert said["data"]["id"] == embed.id
        assert said["data"]["progress"]["embedded"] == 1
        assert [each["status_code"] for each in attempts(service, embed.id, 1)] == [204]

        there.behave["/search"] = answer(503)
        search = client.search_job(collection="calls-back", image_key="a.png", callback_url=f"{there.url}/search")
        assert attempts(service, search.id, 1)[0]["status_code"] == 503
        there.behave["/search"] = answer(204)
        assert [each["status_code"] for each in attempts(service, search.id, 2)] == [503, 204]
        first, second = there.wait(3)[1:]
        assert first.id == second.id
        assert second.verified()["type"] == "job.succeeded"
