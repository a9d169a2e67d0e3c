"""A worker's own code in the test's process, a claim at a time, where a hand's would show too little."""

from __future__ import annotations

from imagekin import errors, jobs
from imagekin.config import Settings
from imagekin.types import Lane
from imagekin_worker import assigner, clusterer, importer, planner, searcher
from imagekin_worker.node import Node

RUNS = {
    "plan": planner.run,
    "search": lambda node, claim, lease: searcher.run(node, [claim], lease),
    "cluster": clusterer.run,
    "assign": assigner.run,
    "import": lambda node, claim, _lease: importer.run(node, claim),
}


class Crew:
    """Works until nothing is left to do; counts the claims."""

    def __init__(self, settings: Settings) -> None:
        self._nodes = [Node(settings, lane) for lane in Lane]
        self.claims = 0

    def work(self) -> None:
        while any(self._claim(node) for node in self._nodes):
            pass

    def _claim(self, node: Node) -> bool:
        self.claims += 1
        claims = node.claim(f"crew/{self.claims}")
        for claim in claims:
            with node.lease([claim]) as lease:
                try:
                    RUNS[claim.kind](node, claim, lease)
                except errors.ImagekinError as error:
                    node.database.write(jobs.fail, claim.job_id, error.code, error.detail)
        return bool(claims)

    def close(self) -> None:
        for node in self._nodes:
            node.close()
