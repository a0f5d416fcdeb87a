"""Import features that WildFins saved; the same as `wildstream import`."""

import sys

from wildstream.commands import add_import_options, run_alone

if __name__ == "__main__":
    sys.exit(run_alone(__doc__, add_import_options))
