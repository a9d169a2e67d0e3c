"""The HTTP side of imagekin: takes jobs in, shows what became of them, and never imports torch."""
