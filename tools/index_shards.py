"""Index WebDataset shards that others made; the same as `wildstream index`."""

import sys

from wildstream.commands import run_alone
from wildstream.shards.command import add_index_options

if __name__ == "__main__":
    sys.exit(run_alone(__doc__, add_index_options))
