"""The colours that captions name, as red, green and blue, 0 to 255."""

# Of things.
COLOURS = {
    "red": (229, 57, 53),
    "orange": (251, 140, 0),
    "yellow": (253, 216, 53),
    "green": (67, 160, 71),
    "blue": (30, 136, 229),
    "purple": (142, 36, 170),
    "pink": (244, 118, 168),
    "black": (45, 45, 48),
}
# Of grounds behind them: a little softer.
GROUNDS = {
    "red": (220, 60, 55),
    "orange": (250, 160, 60),
    "yellow": (255, 225, 90),
    "green": (95, 180, 100),
    "blue": (80, 150, 235),
    "light blue": (175, 220, 250),
    "purple": (150, 90, 190),
    "pink": (250, 175, 205),
    "black": (30, 30, 34),
    "grey": (160, 160, 165),
}
# What captions call things as they are drawn, besides the colours that they can be given.
OWN_COLOURS = ("brown", "white", "grey")
