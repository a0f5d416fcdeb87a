"""Index WebDataset shards that others made; the same as `wildstream index`."""

import sys

from wildstream.commands import add_index_options, run_alone

if __name__ == "__main__":
    sys.exit(run_alone(__doc__, add_index_options))
