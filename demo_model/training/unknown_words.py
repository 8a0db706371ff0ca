"""English words of which the model draws nothing; they teach it what to do with words that it does not know."""

import re

from wordfreq import top_n_list

from demo_model.plurals import plural
from demo_model.training.colours import COLOURS, GROUNDS, OWN_COLOURS
from demo_model.training.concepts import concepts
from demo_model.training.scenes import HEADS, WORN
from demo_model.training.vocabulary import PLACE_PHRASES

_NUMBER = 20_000  # of the commonest English words
_SHORTEST = 4  # letters
# What says how many, how big or how things belong together.
_WITH_A_MEANING = (
    "pair couple some many three four five seven eight nine background white small tiny mini huge large giant "
    "wearing wears that with next beside together near"
)


def unknown_words() -> list[str]:
    """Returns some thousand common words that are part of no name of a thing, a colour or a place."""
    names = [name for concept in concepts() for name in concept.names]
    names += [name for table in (HEADS, WORN) for entry in table.values() for name in entry[0]]
    phrases = [phrase for phrases in PLACE_PHRASES.values() for phrase in phrases]
    known = [*names, *map(plural, names), *phrases, *COLOURS, *GROUNDS, *OWN_COLOURS, _WITH_A_MEANING]
    known_words = set(re.findall(r"[a-z]+", " ".join(known).lower()))
    return [
        word
        for word in top_n_list("en", _NUMBER)
        if len(word) >= _SHORTEST and word.isascii() and word.isalpha() and word not in known_words
    ]
