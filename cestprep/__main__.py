"""``python -m cestprep``."""

import sys

from cestprep.cli.participant import main

if __name__ == "__main__":
    sys.exit(main())
