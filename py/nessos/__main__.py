"""`python -m nessos` is the command line."""

from nessos.cli import main

if __name__ == "__main__":
    main()
