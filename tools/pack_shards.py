"""Pack labelled videos into shards; the same as `wildstream pack`."""

import sys

from wildstream.commands import add_pack_options, run_alone

if __name__ == "__main__":
    sys.exit(run_alone(__doc__, add_pack_options))
