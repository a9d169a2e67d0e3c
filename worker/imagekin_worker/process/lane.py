"""The lane that a worker's processes belong to, as the environment tells it."""

from __future__ import annotations

LANE_VARIABLE = "IMAGEKIN_LANE"
