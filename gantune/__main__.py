"""`python -m gantune` is the `gantune` command."""

from gantune.cli.main import main

if __name__ == "__main__":
    main()
