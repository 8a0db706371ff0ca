"""The HTML around the picture that the scripts fill: bar, caption, strip, what is said at the bottom of the screen."""

from page.translation import ANY_LANGUAGE as _WORDS

PROGRESS_HTML = (
    f'<div class="progress" hidden><div role="progressbar" aria-label="{_WORDS["progress"]}" aria-valuemin="0" '
    'aria-valuemax="100"><i></i></div><span class="left" aria-hidden="true"></span></div>'
)
GRID_HTML = f'<div class="pictures-at-once" role="group" aria-label="{_WORDS["pictures_at_once"]}"></div>'
CAPTION_HTML = f'<div class="how"><span>{_WORDS["caption_empty"]}</span></div>'
STRIP_HTML = (
    f'<section aria-label="{_WORDS["strip"]}"><header><h2>{_WORDS["strip"]} <span class="count"></span></h2>'
    f'<span class="place">{_WORDS["strip_kept"]}</span><span class="all">'
    f'<button type="button" class="download-all">{_WORDS["download_all"]}</button>'
    f'<button type="button" class="clear">{_WORDS["clear_all"]}</button></span></header>'
    '<ul class="pictures"></ul></section>'
)
OFFLINE_HTML = f'<p role="alert" hidden>{_WORDS["offline"]}</p>'
SAID_HTML = '<p role="status" aria-live="polite"></p>'
OPEN_PICTURE_HTML = (
    f'<label class="open">{_WORDS["open_picture"]}<input type="file" accept="image/png"></label>'
    f"<small>{_WORDS['open_picture_hint']}</small>"
)
