"""``python -m kvmpc``."""

import sys

from kvmpc.cli import main

sys.exit(main())
