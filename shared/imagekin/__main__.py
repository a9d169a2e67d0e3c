"""`python -m imagekin`, the same as `imagekin`."""

from imagekin.cli import main

if __name__ == "__main__":
    main()
