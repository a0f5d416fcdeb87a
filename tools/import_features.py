"""Import features that WildFins saved; the same as `wildstream import`."""

import sys

from wildstream.commands import run_alone
from wildstream.features.command import add_import_options

if __name__ == "__main__":
    sys.exit(run_alone(__doc__, add_import_options))
