"""The only home of dxtbx, dials and cctbx objects; numbers and arrays come out.

Importing it, on which every way to DIALS leads, has this process refuse to run what files hold (`guards`): also in
workers, which import it to unpack their work.
"""

from __future__ import annotations

from diffuse_framework.adapters.guards.phil import evaluate_numbers_only
from diffuse_framework.adapters.guards.pickles import stop_unpickling

stop_unpickling()
evaluate_numbers_only()
