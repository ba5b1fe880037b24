"""BC5CDR's relations: chemical-induced diseases, without novelty.

The corpus annotates the most specific disease of a document. Its pairs with a more general one
(a hypernym in MeSH) stay candidates here and are labelled None, and no prediction is filtered.
"""

from embre.relation_schema import RelationSchema

SCHEMA = RelationSchema(
    name="bc5cdr",
    relation_types=("CID",),
    legal={("Chemical", "Disease"): frozenset({"CID"})},
    novelty=False,
)
