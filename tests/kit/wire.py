"""What answers must look like."""

from __future__ import annotations

from typing import Any

import httpx2

ADMIN_KEY = "ik_the-first-key"
PROBLEM = "application/problem+json"


def check_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is the problem it should be, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == PROBLEM
    problem = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert {"type", "title", "detail"} <= problem.keys()
    assert all(problem[name] for name in ("type", "title", "detail"))
    assert all(error["pointer"].startswith("/") or error["pointer"] == "" for error in problem.get("errors", []))
    return problem
