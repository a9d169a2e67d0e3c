"""A worker's processes: the command, Celery's tasks, the parent that watches over its children, logs, metrics."""
