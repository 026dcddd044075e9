"""What a MemeCap annotator's sentence says, without the words that nearly all of them begin with.

Of 1,323 sentences of 1,311 memes 1,297 begin with the one who posted the meme: "Meme poster is trying to convey that"
and the like (740), "Meme poster is" (228), "The meme poster", "Poster" and the like before another verb (300), "Meme
poster is saying that" and the like (29). Such an opening says nothing of the meme.
"""

import re

SUBJECT = (
    r"(?:(?:the|this) )?(?:me[mn]e )?(?:poster|poser|posted|user)s?"
    r"|the person who (?:wrote|posted|made) (?:the )?(?:post|meme)"
    r"|(?:the )?meme(?= is\b)"
)
SAYING = r"(?:(?:try|tries|trying|tryin) to )?(?:convey|say|express)(?:s|es|ing)?(?: that)?"
OPENING = re.compile(rf"(?:{SUBJECT})(?: is| was)?(?: {SAYING})?(?= )", re.IGNORECASE)


def without_opening(sentence):
    """The sentence with single spaces, without its opening; whole where nothing else would be left.

    "Meme poster is trying to convey that Mondays are long." -> "Mondays are long."; "The meme poster's cat sleeps"
    stays, as what follows is the cat's.
    """
    sentence = " ".join(sentence.split())
    opening = OPENING.match(sentence)
    return sentence[opening.end() :].strip() if opening else sentence
