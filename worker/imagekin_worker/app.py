"""Celery's entry: `celery -A imagekin_worker.app inspect ping`, and the app that `imagekin worker` runs."""

from imagekin import queue
from imagekin.config import Settings

settings = Settings()
app = queue.celery_app(settings)
# spawned children don't run handlers they don't import: every module with tasks or signals
app.conf.include = ["imagekin_worker.tasks", "imagekin_worker.supervision", "imagekin_worker.logs"]
