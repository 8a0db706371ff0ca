"""The words of the captions besides the names of things. Standard library only."""

STARTS = (
    "a picture of", "an image of", "a drawing of", "a photo of", "an icon of", "an emoji of", "draw", "show me",
    "please draw", "i want", "can you draw", "a cartoon of", "an illustration of", "a painting of", "a sticker of",
    "a logo with", "clip art of", "make", "picture of", "drawing of", "give me", "paint", "i would like",
    "can you please draw me a picture of",
)  # fmt: skip
ENDS = (
    "please", "for my mum", "for my friend", "on a white background", "flat style", "cartoon", "clip art", "emoji",
    "icon", "vector art", "digital art", "high quality", "4k", "minimalist", "for kids", "on white", "isolated",
    "simple drawing", "in flat design", "in summer", "in the morning", "with nice colours", "for the school", "hd",
)  # fmt: skip
ADJECTIVES = (
    "cute", "little", "beautiful", "nice", "funny", "pretty", "lovely", "simple", "great", "sweet", "new",
    "cool looking", "friendly", "cartoon", "flat", "fresh", "really cute", "happy", "old", "fancy", "shiny",
)  # fmt: skip
DETERMINERS = (
    ("a",) * 10 + ("the",) * 3 + ("my",) * 2 + ("one", "this", "our", "your", "his", "her", "that") + ("",) * 6
)
PLACE_PHRASES = {
    "night": ("at night", "at night", "in the night", "under the stars", "in the moonlight", "under the night sky"),
    "sea": ("in the sea", "in the sea", "in the ocean", "in the water", "on the sea", "swimming in the sea"),
    "grass": ("on grass", "on the grass", "in a meadow", "in the park", "in the garden", "on a green field", "outside"),
    "snow": ("in the snow", "in the snow", "in snow", "in winter", "standing in the snow"),
    "rainbow": ("under a rainbow", "under a rainbow", "under the rainbow", "with a rainbow", "below a rainbow"),
    "sky": ("in the sky", "in the sky", "in the clouds", "flying in the sky", "in the air", "in the blue sky"),
    "sunset": ("at sunset", "at sunset", "in the sunset", "at dusk", "in the evening", "before a sunset"),
    "beach": ("on the beach", "at the beach", "on a beach", "by the sea", "on the sand", "at the seaside"),
    "space": ("in space", "in outer space", "in the universe", "flying through space", "among the planets"),
}  # fmt: skip
# Words that change nothing in the picture.
FILLER = (  # noqa: SIM905 (one word a string would be a page long)
    "very really quite just only here there now today always best good well made with and or for from into near under "
    "over behind next kind sort type thing stuff standing sitting looking going coming being having doing called named "
    "holding eating playing sleeping running walking modern classic vintage elegant detailed amazing wonderful perfect "
    "style art design colorful colourful bright soft clear high low long short wild spring family friend brother "
    "sister uncle teacher monday sunday july january english french italian german"
).split()
# Words of which the model draws nothing.
NOUNS = (  # noqa: SIM905
    "philosophy justice inflation democracy history grammar silence memory future opinion method theory system economy "
    "physics chemistry algebra syntax agreement contract insurance policy budget meeting strategy management software "
    "database network protocol algorithm tax election parliament president minister government committee research "
    "science knowledge wisdom courage patience honour truth freedom peace trust doubt reason thought idea dream hope "
    "fear anger luck chance risk choice change growth decline crisis problem solution question answer reply example "
    "detail aspect feature element factor level degree amount quantity quality value price cost profit loss trade "
    "market industry business company office job career salary pension neighbour colleague lawyer engineer plumber "
    "carpet curtain ceiling floor staircase corridor basement attic balcony elevator escalator pavement junction "
    "motorway tunnel border province county republic empire century decade moment minute season weather climate "
    "temperature pressure gravity energy power force speed distance length width height weight volume density colour "
    "shape pattern texture surface structure material plastic cotton leather rubber concrete copper iron steel zinc "
    "oxygen carbon nitrogen molecule atom electron photon quantum entropy vacuum orbit eclipse equator latitude "
    "language dialect accent vowel verb noun adjective sentence paragraph chapter essay poem novelist poet sculptor "
    "symphony rhythm melody harmony opera ballet rehearsal audience applauding critic journalist editor publisher "
    "medieval baroque gothic abstract surreal minimal cubist ambient melancholy nostalgia serenity chaos infinity "
    "xylophone abacus sextant gargoyle cathedral aqueduct windmill lighthouse harbour quarry glacier canyon geyser "
    "tundra savanna swamp jungle cliff waterfall rapids delta peninsula archipelago isthmus platypus armadillo "
    "anteater walrus narwhal pelican puffin ostrich vulture heron stork magpie ferret weasel moose bison tapir"
).split()
# The names of places, among the words that the model knows.
PLACE_NAMES = (
    "night", "stars", "sea", "ocean", "water", "grass", "meadow", "park", "garden", "snow", "winter", "rainbow", "sky",
    "clouds", "sunset", "dusk", "evening", "beach", "seaside", "sand", "space", "universe",
)  # fmt: skip
