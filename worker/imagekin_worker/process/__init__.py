"""A worker's processes: the command, Celery's tasks, the parent that watches over its children, logs, metrics."""

# The lane of a worker: what the command sets, its spawned children read.
LANE_VARIABLE = "IMAGEKIN_LANE"
