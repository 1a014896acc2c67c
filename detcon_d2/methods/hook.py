"""The hook that a method may bring along."""

from detcon_d2 import d2


class MethodHook(d2.HookBase):
    """A hook that a method brings along."""

    def resume(self, iteration: int) -> None:
        """Called once, when a run starts or continues at ``iteration``; raises ValueError where it cannot be continued."""
