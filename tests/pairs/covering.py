"""Twenty-eight runs that have every pair of options that goes together, each in at least one of them."""

from .options import VALUES, Options

_TABLE = """
saturated | random | off | none | one_a_row | off | on | float32 | some | host | several | one | parameters
hard | learned | on | a share | packed | on | off | float64 | none | in_graph | one | several | parameters
none | fixed | off | none | in buckets | off | on | bfloat16 | none | in_graph | one | several | data
soft and hard | fixed | off | a share | in buckets | on | off | float64 | some | host | several | one | data
soft | learned | on | none | one_a_row | on | off | bfloat16 | none | host | several | one | data
hard | none | off | none | packed | off | on | float32 | some | host | one | one | data
soft and hard | random | off | a share | one_a_row | off | off | float32 | none | in_graph | one | several | parameters
soft | none | off | none | in buckets | off | on | float64 | some | in_graph | several | several | parameters
saturated | learned | on | a share | in buckets | on | on | float32 | some | host | one | several | data
none | none | off | none | packed | on | off | bfloat16 | some | host | several | one | parameters
saturated | fixed | off | a share | packed | on | off | bfloat16 | none | in_graph | one | one | parameters
soft and hard | learned | on | none | packed | off | on | bfloat16 | some | host | several | one | data
hard | random | off | none | in buckets | on | off | bfloat16 | some | host | several | several | data
soft | random | off | none | packed | on | on | float32 | some | in_graph | one | one | parameters
none | random | off | none | one_a_row | off | off | float64 | none | host | several | one | parameters
hard | fixed | off | none | one_a_row | off | off | float32 | none | in_graph | several | several | parameters
none | learned | off | none | packed | on | on | float32 | none | host | several | several | parameters
soft | fixed | off | none | one_a_row | on | off | float64 | none | in_graph | one | several | data
saturated | learned | off | none | in buckets | off | on | float64 | none | in_graph | one | several | parameters
none | none | off | none | one_a_row | off | off | float32 | none | host | one | one | data
soft and hard | log_sigmoid | off | a share | packed | on | off | float32 | none | in_graph | one | one | data
soft | log_sigmoid | on | none | one_a_row | off | on | float64 | some | host | several | several | parameters
hard | every_kth | off | a share | one_a_row | off | on | bfloat16 | none | host | several | several | data
hard | every_kth | off | none | in buckets | on | off | float64 | some | in_graph | one | one | parameters
saturated | log_sigmoid | off | a share | in buckets | on | on | bfloat16 | none | host | several | one | parameters
hard | every_kth | off | a share | packed | off | on | float32 | none | in_graph | several | several | data
none | log_sigmoid | off | none | in buckets | on | off | bfloat16 | none | host | one | one | data
hard | log_sigmoid | off | a share | packed | off | on | float64 | none | in_graph | one | one | parameters
"""

RUNS: tuple[Options, ...] = tuple(
    dict(zip(VALUES, line.split(" | "), strict=True)) for line in _TABLE.strip().splitlines()
)
