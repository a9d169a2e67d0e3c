"""Celery's entry: `celery -A imagekin_worker.process.app inspect ping`, and the app that `imagekin worker` runs."""

from imagekin import doorbell
from imagekin.settings import Settings

settings = Settings()
app = doorbell.celery_app(settings)
# spawned children don't run handlers they don't import: every module with tasks or signals
app.conf.include = ["imagekin_worker.process.tasks", "imagekin_worker.process.parent", "imagekin_worker.process.logs"]
