r"""A controller of alpha that pushes and pulls, and finds its gain by itself.

The deletion rate follows alpha with a lag of tens to hundreds of steps, and with the noise of batches: a few points a
step. How strongly it follows is not known beforehand. The alpha that does nothing in one model deletes everything in
twenty steps in another; and within one run, too, since gate values saturate: far from the threshold they hardly react,
then whole populations cross it. Where deleting costs nothing there is no equilibrium at all: the rate moves as long as
alpha is not 0.

So the law knows no gain. It asks for a speed, and looks at what comes:

- a **reference** leads the rate to its target, and waits for a rate that lags behind. So no error ever grows large, and
  nothing winds up while a saturated gate does not react yet;
- alpha is a **gain** times what is missing of the reference and of its speed, and an accumulated part (integral action)
  for plants that fall back without a push. In plants that lag and in those without an equilibrium alike, the speed is
  what alpha changes first; so damping the speed keeps either from swinging, at nearly any gain;
- the gain grows while the rate does not follow, exponentially, since orders of magnitude are unknown; it shrinks as
  soon as the rate is more than twice as fast as was asked for, and with it the accumulated part, if that pushes a rate
  on that has passed its reference: automatic gain control, slow to rise and fast to fall;
- what the noise of batches does by chance is estimated, and moves no gain.

`tests/objectives/test_two_sided.py` simulates a thousand plants of either kind; docs/TRAINING.md has what came of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mrt5_jax.config import ControllerConfig
from mrt5_jax.objectives.controller import Controller

LEAD = 0.05
"""How far the reference may be from the rate: 5 points."""
FIRST_GAIN = 0.3
"""Alpha for an error of 1, at first, in nats."""
SMALLEST_GAIN = 1e-3
"""In nats."""
LARGEST = 10.0
"""What alpha, its accumulated part, and a gain times `LEAD` may reach, in nats: more than any model loses without its
input."""
GROWTH = 1.25
"""The gain grows by up to e^GROWTH in T steps while the rate does not follow."""
DECAY = 0.1
"""And shrinks by e^-DECAY in T steps while nothing is missing."""
BRAKE = 1.5
"""Power, in a smoothing time, by which a rate that is too fast by some factor takes that factor off the gain."""
DAMPING = 0.5
"""Share of T in which a speed that was not asked for counts as an error."""
SURE = 2.5
"""Standard deviations: what lies within them may be the noise of batches."""
TOLERANCE = 0.01
"""An error that nothing has to be done about: 1 point."""
SLOWEST = 1e-6
"""A speed a step that counts as none, so that nothing is divided by 0."""


class TwoSidedState(NamedTuple):
    """What the two-sided controller remembers from step to step; scalars, or one a controller."""

    rate: Float[Array, "*controllers"]
    """The deletion rate, smoothed over some `filter_steps`."""
    speed: Float[Array, "*controllers"]
    """By how much the smoothed rate changes a step, smoothed as long again."""
    noise: Float[Array, "*controllers"]
    """Variance of a step's rate around the smoothed one."""
    reference: Float[Array, "*controllers"]
    """Where the rate should be by now."""
    gain: Float[Array, "*controllers"]
    """Alpha for a rate that is missing altogether: an error of 1."""
    integral: Float[Array, "*controllers"]
    """The accumulated part of alpha."""
    alpha: Float[Array, "*controllers"]
    """The weight that the *next* step's loss gives to the mean gate value; negative: it pulls the rate down."""
    seen: Int[Array, "*controllers"]
    """Steps that had a rate to measure."""
    count: Int[Array, ""]
    """Steps so far."""


class Times(NamedTuple):
    """Times of the law in steps, from the length of a run."""

    begin: float
    """The reference stays where the rate was at first until this step: 3 % of the run."""
    arrive: float
    """And is to be at the target at this one: at 30 % of the run, so that a rate that lags arrives by half of it."""
    response: float
    """T, in which an error should go: a thirtieth of the run, at least 10 steps and at most 100."""
    smoothing: float
    """A seventh of T, at least 4 steps."""


def times_of(num_steps: int) -> Times:
    """Returns the law's times in a run of so many steps."""
    response = min(max(num_steps / 30, 10.0), 100.0)
    return Times(0.03 * num_steps, 0.3 * num_steps, response, max(response / 7, 4.0))


def controller_targets(config: ControllerConfig) -> Float[np.ndarray, "*controllers"]:
    """Returns the target of the only controller, or of each language's own and then that of all others."""
    if not config.language_targets:
        return np.asarray(config.target_deletion_rate)
    return np.array([*(target for _, target in config.language_targets), config.target_deletion_rate])


def two_sided_controller(
    targets: Float[np.ndarray, "*controllers"], num_steps: int, unit: float = 1.0, dtype: DTypeLike = jnp.float32
) -> Controller:
    r"""Makes a controller that pushes and pulls rates towards their targets; the module's text has its reasons.

    With a step's measured rate :math:`y`, smoothing time :math:`s` and response time :math:`T` (`times_of`), a star
    marking values after the step:

    .. math::
        f^* &= f + (y - f) / s, \qquad v^* = v + (f^* - f - v) / s, \qquad q^* = q + ((y - f^*)^2 - q) / 2T \\
        p &= \operatorname{clip}\left((\delta - r) / \max(t_a - t, T), \pm 2 L / T\right)
            \text{ from step } t_b \text{ on, 0 before} \\
        r^* &= \operatorname{clip}(r + p, f^* \pm L), \qquad e = r^* - f^*, \qquad w = p + e / T \\
        \sigma_v &= z \sqrt{q^* / 4 s^3}, \qquad \sigma_e = z \sqrt{q^* / 2 s} \\
        b &= \max(1, |v^*| / (2 |w| + \sigma_v))^{-B / s} \\
        A^* &= A \, b \, \exp(G \operatorname{clip}(\operatorname{sign}(e) (w - v^*) / (|w| + \sigma_v), 0, 1) / T)
            \text{ where } |e| > \max(\epsilon, \sigma_e), \quad A \, b \, \exp(-D / T) \text{ elsewhere} \\
        I^* &= I \, (b \text{ if } I v^* > 0 > I e \text{ else } 1) + A^* e / T \\
        \alpha^* &= I^* + A^* (e + C T (p - v^*))

    :math:`f, v, q, r, A, I` are the state's `rate`, `speed`, `noise`, `reference`, `gain` and `integral`,
    :math:`\delta` is the target, :math:`t_b, t_a` are `Times.begin` and `arrive`; :math:`L, C, z, B, G, D, \epsilon`
    are `LEAD`, `DAMPING`, `SURE`, `BRAKE`, `GROWTH`, `DECAY`, `TOLERANCE`. :math:`|I|` and :math:`|\alpha|` are clipped
    to `LARGEST` units; :math:`A` lies between `SMALLEST_GAIN` units and `LARGEST / LEAD` units. In the first steps
    :math:`f` and :math:`q` are plain means: there :math:`s` and :math:`2T` are the number of measurements. Before the
    first one :math:`v = q = I = \alpha = 0` and :math:`A` is `FIRST_GAIN` units; the first one sets :math:`f = r = y`.
    `SLOWEST` is added to :math:`\sigma_v`. A measurement that is NaN changes nothing but the count of steps.

    Args:
        targets: deletion rates, of one controller or of several.
        num_steps: of the run.
        unit: the alpha by which the loss changes by 1 nat between keeping and deleting everything.
        dtype: of the state.

    Examples:
        >>> controller = two_sided_controller(np.asarray(0.5), num_steps=1000)
        >>> state = controller.init()
        >>> for rate in (0.3, 0.3, 0.2, 0.2):
        ...     state = controller.update(jnp.float32(rate), state)
        >>> bool(state.alpha > 0)  # the rate falls, and is to stay for now
        True
    """
    times = times_of(num_steps)
    goal = jnp.asarray(targets, dtype)

    def init() -> TwoSidedState:
        zeros, count = jnp.zeros(goal.shape, dtype), jnp.zeros((), jnp.int32)
        gain = jnp.full(goal.shape, FIRST_GAIN * unit, dtype)
        seen = jnp.zeros(goal.shape, jnp.int32)
        return TwoSidedState(zeros, zeros, zeros, zeros, gain, zeros, zeros, seen, count)

    def update(measured: Float[Array, "*controllers"], state: TwoSidedState) -> TwoSidedState:
        count = state.count + 1
        moved = _moved(jnp.nan_to_num(measured.astype(dtype)), state, goal, times, unit)._replace(count=count)
        # A language of which a batch has no row is not measured, and stays as it is.
        is_seen = ~jnp.isnan(measured)
        kept = jax.tree.map(lambda new, old: jnp.where(is_seen, new, old), moved, state._replace(count=count))
        return kept._replace(count=count)

    return Controller(init, update)


def _moved(measured: Array, state: TwoSidedState, goal: Array, times: Times, unit: float) -> TwoSidedState:
    """The state after a measurement; the formulas are those of `two_sided_controller`, in their order."""
    response, largest, seen = times.response, LARGEST * unit, state.seen + 1
    before = jnp.where(state.seen == 0, measured, state.rate)
    rate = before + (measured - before) / jnp.minimum(times.smoothing, seen)
    speed = state.speed + (rate - before - state.speed) / times.smoothing
    noise = state.noise + ((measured - rate) ** 2 - state.noise) / jnp.minimum(2 * response, seen)

    start = jnp.where(state.seen == 0, measured, state.reference)
    left, limit = jnp.maximum(times.arrive - state.count, response), 2 * LEAD / response
    planned = jnp.where(state.count < times.begin, 0, jnp.clip((goal - start) / left, -limit, limit))
    reference = jnp.clip(start + planned, rate - LEAD, rate + LEAD)
    error = reference - rate
    wanted = planned + error / response

    by_chance = SURE * jnp.sqrt(noise / (4 * times.smoothing**3)) + SLOWEST
    is_missing = jnp.abs(error) > jnp.maximum(TOLERANCE, SURE * jnp.sqrt(noise / (2 * times.smoothing)))
    lacking = jnp.sign(error) * (wanted - speed) / (jnp.abs(wanted) + by_chance)
    growth = jnp.where(is_missing, GROWTH * jnp.clip(lacking, 0, 1), -DECAY)
    too_fast = jnp.maximum(jnp.abs(speed) / (2 * jnp.abs(wanted) + by_chance), 1)
    brake = too_fast ** (-BRAKE / times.smoothing)
    gain = jnp.clip(state.gain * jnp.exp(growth / response) * brake, SMALLEST_GAIN * unit, largest / LEAD)

    runs_away = (state.integral * speed > 0) & (state.integral * error < 0)
    integral = state.integral * jnp.where(runs_away, brake, 1) + gain * error / response
    integral = jnp.clip(integral, -largest, largest)
    alpha = jnp.clip(integral + gain * (error + DAMPING * response * (planned - speed)), -largest, largest)
    return TwoSidedState(rate, speed, noise, reference, gain, integral, alpha, seen, state.count)
