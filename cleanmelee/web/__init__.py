"""The page: recordings to watch, and games to play against a policy, in a browser.

    picture      a frame as the page draws it, and the shapes that it is drawn from
    thoughts     what a policy thought of each frame: its value, its probabilities
    library      the recordings of one folder, and nothing outside it
    match        one game that a page plays
    server       who asks for what: HTTP, WebSockets, limits
    page.html    all that the browser loads

`python play.py --watch` and `python play.py --serve` start it.
"""
