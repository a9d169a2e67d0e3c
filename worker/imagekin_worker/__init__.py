"""The worker of imagekin: it claims chunks of jobs and does the work; torch is imported in this package only."""
