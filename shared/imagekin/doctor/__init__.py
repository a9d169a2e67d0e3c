"""The doctor: checks on any database, live or stopped, that nothing was lost, and repairs what is safe to repair."""

from imagekin.doctor.examination import Outcome, Report, examine

__all__ = ["Outcome", "Report", "examine"]
