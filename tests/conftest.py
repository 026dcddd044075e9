"""What many tests share: where the project is, and one thread for each process that they start.

Small tensors gain nothing from a second thread, and tests that start processes of their own would fight for the cores.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that tests start

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
