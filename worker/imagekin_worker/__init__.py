"""The worker of imagekin: claims chunks of jobs and does them; torch is imported in this package only."""
