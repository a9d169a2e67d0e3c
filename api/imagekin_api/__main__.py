"""`python -m imagekin_api`."""

from imagekin_api.command import main

main()
