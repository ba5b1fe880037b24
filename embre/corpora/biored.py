"""BioRED's relations: eight types, and NCBI's table of those allowed for each pair of entities."""

from embre.relation_schema import RelationSchema

# The official scorer leaves these out on both sides: BioRED does not annotate them.
NOT_SCORED = frozenset({("Disease", "Disease"), ("Gene", "Variant"), ("Gene", "Species")})
_ANY = {"Association", "Positive_Correlation", "Negative_Correlation"}

SCHEMA = RelationSchema(
    name="biored",
    relation_types=(
        "Association",
        "Positive_Correlation",
        "Negative_Correlation",
        "Bind",
        "Conversion",
        "Cotreatment",
        "Comparison",
        "Drug_Interaction",
    ),
    legal={
        ("Chemical", "Chemical"): frozenset(
            {*_ANY, "Comparison", "Conversion", "Cotreatment", "Drug_Interaction"}
        ),
        ("Chemical", "Disease"): frozenset(_ANY),
        ("Chemical", "Gene"): frozenset({*_ANY, "Bind", "Cotreatment"}),
        ("Chemical", "Variant"): frozenset(_ANY),
        ("Disease", "Gene"): frozenset(_ANY),
        ("Disease", "Variant"): frozenset(_ANY),
        ("Gene", "Gene"): frozenset({*_ANY, "Bind"}),
        ("Variant", "Variant"): frozenset({"Association"}),
    },
    not_scored=NOT_SCORED,
)
