"""A worker's own code in the test's process, a claim at a time, where a hand's would show too little."""

from __future__ import annotations

from imagekin import errors
from imagekin.enums import Lane
from imagekin.jobs import end
from imagekin.settings import Settings
from imagekin_worker.context.process_state import Node
from imagekin_worker.process import dispatch


class Crew:
    """Works until nothing is left to do; counts the claims."""

    def __init__(self, settings: Settings) -> None:
        self._nodes = [Node(settings, lane) for lane in Lane]
        self.claims = 0

    def work(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        """Do one claim; return whether there was any."""
        return any(self._claim(node) for node in self._nodes)

    def _claim(self, node: Node) -> bool:
        self.claims += 1
        claims = node.claim(f"crew/{self.claims}")
        for claim in claims:
            with node.lease([claim]) as lease:
                try:
                    dispatch.do(node, [claim], lease)
                except errors.ImagekinError as error:
                    node.database.write(end.fail, claim.job_id, error.code, error.detail)
        return bool(claims)

    def close(self) -> None:
        for node in self._nodes:
            node.close()
