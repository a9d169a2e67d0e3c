"""`python -m imagekin_migrations upgrade`, the same as `imagekin db upgrade`."""

from imagekin_migrations.command import db

if __name__ == "__main__":
    db()
