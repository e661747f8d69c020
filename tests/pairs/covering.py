"""Twenty-three runs that have every pair of options that goes together, each in at least one of them."""

from .options import VALUES, Options

_TABLE = """
hard | random | off | a share | in buckets | off | on | bfloat16 | some | host | several | one | data
none | learned | off | none | one_a_row | on | off | float64 | none | in_graph | auto | several | parameters
soft and hard | learned | on | a share | packed | off | off | float32 | some | in_graph | one | several | data
soft | fixed | off | none | packed | on | on | float32 | none | host | one | one | parameters
saturated | learned | on | none | in buckets | on | on | bfloat16 | none | in_graph | several | several | parameters
auto | none | off | none | one_a_row | off | on | float64 | some | host | auto | one | data
saturated | fixed | off | a share | in buckets | off | off | float64 | some | host | auto | one | parameters
soft and hard | random | off | a share | one_a_row | on | off | float64 | none | host | several | several | parameters
hard | none | off | none | packed | on | off | bfloat16 | none | in_graph | one | several | parameters
soft | learned | on | none | one_a_row | on | off | bfloat16 | some | host | auto | one | data
none | random | off | none | packed | off | on | float32 | none | in_graph | several | one | data
auto | fixed | off | none | one_a_row | on | off | bfloat16 | none | in_graph | several | several | data
soft | none | off | none | in buckets | off | on | float32 | some | in_graph | several | several | data
auto | learned | on | none | in buckets | off | on | float64 | some | host | one | one | parameters
saturated | random | off | a share | one_a_row | off | off | float32 | none | host | one | one | data
soft and hard | fixed | off | none | in buckets | on | on | bfloat16 | none | in_graph | auto | one | data
hard | learned | on | a share | packed | on | off | float64 | none | in_graph | auto | several | data
none | none | off | none | in buckets | off | off | bfloat16 | some | host | one | several | parameters
auto | random | off | none | packed | on | on | float32 | some | in_graph | auto | one | data
hard | fixed | off | a share | one_a_row | off | off | float32 | none | host | several | several | data
soft | random | off | none | packed | on | off | float64 | none | host | auto | several | parameters
none | fixed | off | none | one_a_row | on | off | float64 | none | in_graph | auto | one | data
saturated | fixed | off | none | packed | off | off | float32 | some | in_graph | auto | one | data
"""

RUNS: tuple[Options, ...] = tuple(
    dict(zip(VALUES, line.split(" | "), strict=True)) for line in _TABLE.strip().splitlines()
)
