"""The HTTP side of imagekin: it accepts jobs, shows their results, and never imports torch."""
