"""`python -m cognates` is the program `cognates`."""

import sys

from cognates.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
