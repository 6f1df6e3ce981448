"""`bench` and `python -m bench`: a signal means the same from the first moment on, so handlers are
set before anything slow is imported."""

from __future__ import annotations

import signal
import sys
from typing import Any

INTERRUPTED = 130


def _interrupted(signum: int, frame: Any) -> None:
    # SystemExit unwinds every context manager on the way out. It has to reach the main greenlet:
    # a handler runs in whichever is current, and a patched thread would swallow it.
    stop = SystemExit(INTERRUPTED)
    hub_of = getattr(sys.modules.get("gevent.hub"), "get_hub", None)
    hub = hub_of() if hub_of else None
    current = sys.modules["greenlet"].getcurrent() if hub else None
    if hub is None or current in (hub, hub.parent):
        raise stop
    hub.handle_system_error(SystemExit, stop)


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupted)
    from bench.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
