"""SIGTERM is a notice inside the loop, and again an end outside it."""

import os
import signal

from mrt5_jax.parallel.preemption import PreemptionNotice


def test_sigterm_is_noticed_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with PreemptionNotice() as notice:
        assert not notice.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.reached(2)
        assert notice.reached(3)
    assert signal.getsignal(signal.SIGTERM) == before
