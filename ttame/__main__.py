"""`python -m ttame`: the command line."""

from ttame.cli import main

if __name__ == "__main__":
    main()
