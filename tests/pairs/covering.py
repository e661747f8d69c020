"""Forty-one runs that have every pair of options that goes together, each in at least one of them."""

from .options import VALUES, Options

_TABLE = """
hard | none | off | none | packed | off | on | bfloat16 | none | host | several | several | data
soft | learned | on | none | in buckets | on | off | float64 | some | in_graph | auto | one | parameters
saturated | random | off | a share | one_a_row | on | on | float32 | some | in_graph | one | several | parameters
soft and hard | log_sigmoid | on | a share | one_a_row | off | off | float64 | none | host | one | one | data
none | fixed | off | none | in buckets | off | on | float32 | none | host | auto | one | data
hard | every_kth | off | a share | packed | on | off | bfloat16 | none | in_graph | several | one | parameters
auto | log_sigmoid | on | none | in buckets | on | on | bfloat16 | some | host | several | several | parameters
auto | fixed | off | none | packed | off | off | float64 | some | in_graph | one | several | data
saturated | learned | on | a share | packed | off | off | float32 | none | host | auto | several | data
soft | random | off | none | one_a_row | off | on | float64 | none | host | several | one | data
none | none | off | none | one_a_row | on | off | bfloat16 | some | in_graph | one | several | parameters
soft and hard | learned | off | none | one_a_row | on | on | bfloat16 | some | in_graph | auto | several | parameters
hard | every_kth | off | none | in buckets | on | on | float32 | some | host | one | several | data
auto | none | off | none | in buckets | off | off | float32 | none | host | auto | one | parameters
saturated | fixed | off | a share | in buckets | on | off | bfloat16 | none | host | several | one | parameters
soft | log_sigmoid | off | none | packed | on | off | float32 | none | in_graph | auto | several | parameters
hard | every_kth | off | none | one_a_row | off | on | float64 | some | host | auto | one | data
none | random | off | none | packed | off | off | float64 | some | in_graph | several | several | parameters
soft and hard | random | off | a share | in buckets | off | off | float32 | some | host | several | one | parameters
auto | random | off | none | one_a_row | off | on | bfloat16 | some | in_graph | auto | several | data
soft | fixed | off | none | one_a_row | on | on | bfloat16 | none | host | one | several | parameters
saturated | log_sigmoid | off | none | packed | off | off | float64 | some | host | auto | one | data
hard | learned | on | none | one_a_row | off | on | bfloat16 | some | in_graph | several | several | parameters
none | learned | off | none | packed | on | off | bfloat16 | some | in_graph | one | one | data
soft | none | off | none | one_a_row | on | on | float64 | some | in_graph | one | several | data
soft and hard | fixed | off | a share | packed | on | on | float32 | some | in_graph | auto | one | parameters
hard | random | off | a share | in buckets | on | on | float32 | none | in_graph | auto | several | data
none | log_sigmoid | off | none | one_a_row | off | off | bfloat16 | none | host | one | several | data
auto | learned | on | none | one_a_row | off | on | float32 | some | in_graph | several | several | parameters
hard | log_sigmoid | off | a share | one_a_row | off | on | float64 | some | host | several | several | parameters
auto | every_kth | off | none | in buckets | on | off | float32 | some | host | several | several | data
hard | fixed | off | a share | packed | off | on | bfloat16 | none | in_graph | several | several | parameters
hard | boundary_predictor | on | a share | packed | on | on | float64 | some | in_graph | several | one | parameters
auto | boundary_predictor | off | none | one_a_row | off | off | float32 | none | host | auto | several | data
hard | boundary_predictor | off | none | in buckets | off | on | bfloat16 | none | in_graph | one | one | data
hard | hnet | on | a share | packed | on | on | float64 | some | in_graph | several | one | parameters
auto | hnet | off | none | one_a_row | off | off | float32 | none | host | auto | several | data
hard | hnet | off | none | in buckets | off | on | bfloat16 | none | in_graph | one | one | data
hard | top_k | off | a share | packed | on | on | float64 | some | in_graph | several | one | parameters
auto | top_k | off | none | one_a_row | off | off | float32 | none | host | auto | several | data
hard | top_k | off | none | in buckets | off | on | bfloat16 | none | in_graph | one | one | data
"""

RUNS: tuple[Options, ...] = tuple(
    dict(zip(VALUES, line.split(" | "), strict=True)) for line in _TABLE.strip().splitlines()
)
