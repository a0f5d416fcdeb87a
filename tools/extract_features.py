"""Extract the features of packed videos; the same as `wildstream extract`, also for `accelerate launch`."""

import sys

from wildstream.commands import run_alone
from wildstream.features.command import add_extract_options

if __name__ == "__main__":
    sys.exit(run_alone(__doc__, add_extract_options))
