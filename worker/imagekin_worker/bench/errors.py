"""What keeps a row of the bench from being measured."""

from __future__ import annotations

from imagekin import errors


class NotMeasured(errors.ImagekinError):
    """This machine cannot measure it."""

    code = "not_measured"
