"""`python -m litevl` is the `litevl` command."""

import sys

from litevl.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
