"""python -m fastmask_jax COMMAND: same as the console command `fastmask`."""

import sys

from fastmask_jax.apps.command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
