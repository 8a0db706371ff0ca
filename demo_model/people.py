"""Words about people, and what the demo model does not draw beside them. Standard library only.

The model draws known words side by side. A man and a monkey can be an insult or not, so
`demo_model.prompt` leaves out the monkey where the prompt likens a person to it or names a people, a religion or a
skin colour.
"""

import codecs
import re

from demo_model.plurals import plural


def _with_plurals(names: str) -> frozenset[str]:
    """Returns the comma-separated names and their plurals."""
    singular = [" ".join(name.split()) for name in names.split(",")]
    return frozenset(singular) | frozenset(map(plural, singular))


# Known names of persons, drawn in the artwork's own colours.
PERSONS = _with_plurals(
    """
    baby, baby face, boy, child, little boy, kid, son, girl, little girl, daughter, man, guy, father, dad, woman,
    lady, mother, mum, mom, old man, grandfather, grandpa, old woman, grandmother, grandma, granny, santa claus,
    santa, father christmas, santa clause, astronaut, spaceman, cosmonaut, princess, queen, prince, king, cook,
    chef, firefighter, fireman, police officer, policeman, detective, spy, construction worker, builder, superhero,
    hero, wizard, mage, magician, sorcerer, witch, mermaid, vampire, dracula, zombie, fairy, ninja, clown,
    clown face, angel, cowboy, face
    """
)
# Known parts of a body: in the artwork's own colours too.
_BODY_PARTS = _with_plurals(
    """
    waving hand, hand, raised hand, open hand, ok hand, victory hand, fist, raised fist, clapping hands,
    heart hands, handshake, shaking hands, folded hands, praying hands, strong arm, muscle, flexed biceps, arm,
    biceps, leg, foot, ear, nose, eye, mouth, lips, thumbs up, thumbs down, pointing up, finger pointing up,
    peace sign, crossed fingers
    """
)
# Known faces of something that is no person.
_OTHER_FACES = _with_plurals(
    "cat, kitten, dog, puppy, tiger, monkey, horse, cow, pig, mouse, rabbit, bunny, frog, dragon, alien, robot, devil"
)
# Persons whom the model does not know.
_UNKNOWN_PERSONS = _with_plurals(
    """
    person, human, human being, folk, gentleman, lad, lass, teen, teenager, toddler, infant, adult, elder, citizen,
    brother, sister, uncle, aunt, cousin, wife, husband, boyfriend, girlfriend, friend, neighbour, neighbor, boss,
    teacher, student, pupil, doctor, nurse, lawyer, judge, banker, worker, farmer, soldier, president, politician,
    minister, chancellor, senator, he, she, they, you, him, them, someone, somebody, everyone, celebrity,
    singer, actor, actress, slave, guys, dude, bloke, chap, ladies, women, men
    """
)
# Peoples, religions and others who are insulted as a group; a people's name in -ian or -ese is told by its ending.
_GROUPS = _with_plurals(
    """
    jew, zionist, muslim, moslem, islamist, christian, catholic, protestant, mormon, hindu, sikh, buddhist, atheist,
    rabbi, imam, priest, pope, nun, monk, allah, god, jesus, christ, muhammad, mohammed, mohammad, buddha, quran,
    koran, arab, turk, kurd, greek, german, pole, czech, slovak, thai, swede, dane, finn, scot, briton, serb, croat,
    uzbek, roma, gypsy, sinti, traveller, african, american, mexican, rican, cuban, afghan, pakistani, bangladeshi,
    iraqi, israeli, saudi, yemeni, somali, aboriginal, aborigine, maori, eskimo, inuit, native, negro,
    latino, latina, hispanic, filipino, zulu, tutsi, hutu, yazidi, tatar, immigrant, migrant, refugee, foreigner,
    gay, lesbian, queer, homosexual, transgender, bisexual, disabled, handicapped, blonde, jewish, islamic, polish,
    irish, welsh, english, british, french, dutch, spanish, swedish, danish, finnish, turkish, kurdish, scottish,
    swiss, arabic, trans, lgbt, blacks, whites
    """
)
_ENDING = re.compile(r".+(?:[^d]ian|ese)s?")  # not "guardian"
# Insults in rot13: nobody needs to read them. Some are made of two known or harmless words.
_INSULTS = re.compile(
    r"\b(?:" + codecs.decode(
        "avttre|avttn|puvax|tbbx|fcvpx?|xvxr|cnxv|jbt|jrgonpx|enturnq|gbjryurnq|snttbg|snt|qlxr|genaal|ergneq|fyhg|juber"
        "|ovgpu|phag|juvgr genfu|cbepu zbaxrl|fnaq zbaxrl|whatyr ohaal|pnzry wbpxrl|lneq ncr|zhq funex", "rot13"
    ) + r")(?:e?s)?\b"
)  # fmt: skip
# What people are likened to when they are insulted: animals, filth, monsters.
_INSULTING = _with_plurals(
    """
    monkey, ape, chimp, chimpanzee, gorilla, orangutan, pig, piglet, rat, mouse, little mouse, dog, doggy, hound,
    hound dog, puppy, bat, flying bat, bug, caterpillar, ant, beetle, cricket, grasshopper, spider, tarantula,
    scorpion, mosquito, fly insect, housefly, worm, earthworm, snake, lizard, gecko, reptile, frog, toad, goat, ox,
    bull, cow, dairy cow, cattle, camel, skunk, wolf, octopus, kraken, squid, poop, poo, pile of poo, shit, toilet,
    toilet paper, trash can, wastebasket, bin, garbage can, trash, devil, devil face, smiling devil, demon, ogre,
    monster, scary monster, troll, beast, zombie, vampire, dracula, ghost, spooky ghost, alien, alien face,
    extraterrestrial, alien monster, skull, skeleton head, skull and crossbones, clown, clown face,
    see no evil monkey, monkey covering its eyes
    """
)
# What goes with an insult of a group, and with nothing else that is said of one.
_CLICHES = _with_plurals(
    """
    bomb, dynamite, firecracker, explosion, bang, gun, knife, kitchen knife, dagger, axe, sword, crossed swords,
    fire, flame, gravestone, tombstone, grave, banana, coconut, watermelon, slice of watermelon, fried chicken,
    chicken leg, drumstick, money, money bag, bag of money, cash bag, coin, gold coin, rich, cash, pill, drug,
    syringe, injection, nose
    """
)


def is_person(word: str) -> bool:
    """Returns whether the word, known to the model or not, is a person or several."""
    return word in PERSONS or word in _UNKNOWN_PERSONS


def is_body_part(name: str) -> bool:
    """Returns whether the known name is a part of a body, or a face: "fist", "happy face", "smiley"."""
    face = re.fullmatch(r"(?:(.+) )?(?:face|smiley|smile|grin)s?(?: (?:with|in|blowing) .+)?", name)
    return name in _BODY_PARTS or (face is not None and face[1] not in _OTHER_FACES)


def is_group(word: str) -> bool:
    """Returns whether the word, unknown to the model, is likely a people, a religion or another group."""
    word = word.removesuffix("'s")
    return word in _GROUPS or _ENDING.fullmatch(word) is not None


def has_insult(text: str) -> bool:
    """Returns whether the lower-case text holds an insult of a group."""
    return _INSULTS.search(text) is not None


def is_insulting(name: str) -> bool:
    """Returns whether people are insulted by being likened to the thing of this name: "monkey", "pig face"."""
    return re.sub(r" (?:face|head)s?$", "", name) in _INSULTING or name in _INSULTING


def is_cliche(name: str) -> bool:
    """Returns whether the thing insults a group of people when it is drawn for them: "bomb"."""
    return name in _CLICHES
