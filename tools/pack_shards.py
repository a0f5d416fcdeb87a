"""Pack labelled videos into shards; the same as `wildstream pack`."""

import sys

from wildstream.commands import run_alone
from wildstream.shards.command import add_pack_options

if __name__ == "__main__":
    sys.exit(run_alone(__doc__, add_pack_options))
