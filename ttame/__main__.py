"""`python -m ttame`: the command line."""

from ttame.cli.main import main

if __name__ == "__main__":
    main()
