"""The words of the demo corpus: made-up names and templates of sentences."""

GENES = """karvin delmin bakvin fermin gudvin holvin jastin kordin lomvin mirtin nalvin pelvin
rolmin sudvin tarmin vostin zelmin broldin cravin dolvin falvin grutin hindin jelvin klostin
lurvin makvin norvin pazrin rustin salvin tolmin varnin welmin zortin bulvin cavlin dimvin
fodvin gredvin""".split()
DISEASES = [
    f"{name} {kind}"
    for kind, names in {
        "syndrome": "Morlan Fenvos Ponlar Bralman Pranler Jornek",
        "fever": "Barvek Hillan Nerdos Lunver Zillan Ralvos",
        "anemia": "Tildan Rinlos Velmar Ostrel Milmos Keldar",
        "neuropathy": "Surlan Gulvek Sandos Karmos Grelos Findos",
        "dystrophy": "Klonmer Drurvek Torlek Wendal Dullan Honver",
    }.items()
    for name in names.split()
]
CHEMICALS = """tavolisib dremoxan brezavol kolenidine lotarumab nifezol prunoxil zebivarone
hadoxacil glimazole mopuvidine rastopril sutrenib vomerumide bunazole dinopram kakerosin
liprenib pidrolol tafivir vinorate zoglumide fibremol gatorine hestavir jovirol klaprenol
mihazepam norilast ostravin pokluvir riklaxel soviride trapressin ulbenone vadrecept wexorine
xanobrel yoltamide zabreline""".split()
VARIANTS = "A123T G45D R208W L77P K310E S19F V152M D64N P281L T96I".split()
SPECIES = {"9606": ("patients", "humans"), "10090": ("mice", "mouse models"), "10116": ("rats",)}

UP, DOWN, LINKED = "Positive_Correlation", "Negative_Correlation", "Association"
BOUND, TOGETHER = "Bind", "Cotreatment"
# By pair of types: the weight of its claims, and the relations that they may state.
KINDS = {
    ("Chemical", "Disease"): (30, (UP, DOWN, DOWN, LINKED)),
    ("Gene", "Disease"): (25, (UP, UP, DOWN, LINKED)),
    ("Chemical", "Gene"): (15, (UP, DOWN, BOUND, LINKED)),
    ("Gene", "Gene"): (12, (UP, DOWN, BOUND, LINKED)),
    ("Variant", "Disease"): (10, (UP, DOWN, LINKED)),
    ("Chemical", "Chemical"): (8, (TOGETHER,)),
}
VERBS = {
    UP: ("increased", "raised", "enhanced"),
    DOWN: ("reduced", "lowered", "decreased"),
    LINKED: ("was associated with", "was linked to", "varied with"),
    BOUND: ("bound directly to", "formed a complex with"),
    TOGETHER: ("was combined with", "was given together with"),
}
# Subject and object of a correlation: `KRV2 overexpression increased the risk of Morlan syndrome`.
CAUSES = {
    "Gene": ("{head} overexpression", "{head} activity"),
    "Chemical": ("{head}", "{head} treatment"),
    "Variant": ("the {head} variant", "{head}"),
}
EFFECTS = {
    "Gene": ("{tail} expression", "{tail} levels"),
    "Disease": ("the risk of {tail}", "the severity of {tail}"),
}
NOVEL = (
    "Here we show for the first time that",
    "Our data reveal that",
    "Unexpectedly, we now find that",
    "This is the first evidence that",
)
KNOWN = (
    "As previously reported,",
    "It is well known that",
    "Earlier studies have shown that",
    "In line with past work,",
)
TITLES = (
    "New data on {head} and {tail}.",
    "The relation between {head} and {tail}.",
    "A study of {head} and {tail} in {species}.",
)
DISTRACTORS = (
    "Levels of {head} and {tail} were also recorded in {species}.",
    "No link between {head} and {tail} was seen.",
    "Whether {head} affects {tail} was not tested.",
    "Records of {head} or {tail} were missing for some {species}.",
    "Neither {head} nor {tail} was part of the main question.",
)
ASIDES = (
    "Samples were taken from {species} at two centers.",
    "All {species} were followed for one year.",
    "The {species} were divided into groups of equal size.",
)
