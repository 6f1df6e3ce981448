"""What `bench worker` loads: the users of every file in locustfiles/. The master names its own."""

from bench.load.standalone import ClosedLoopUser
from bench.load.standalone_open import OpenLoopUser

__all__ = ["ClosedLoopUser", "OpenLoopUser"]
