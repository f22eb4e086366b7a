"""`python -m aviary`: the command line."""

from aviary.cli.main import run

if __name__ == "__main__":
    run()
