"""What only the owner of a data set can say: the questions, and the answers of a file."""

import datetime
from typing import NamedTuple

from util import InputError, read_json


class Question(NamedTuple):
    """`property` is where Croissant has the answer; those of `rai:` are its vocabulary for responsible use."""

    text: str
    property: str


QUESTIONS = {
    "license": Question(
        "Under which licence may the CSVs be used, and whose are the pictures? (A licence's address, best.)", "license"
    ),
    "creator": Question("Which persons, as a group, or which organisation made the data set?", "creator"),
    "url": Question("At which address can it be had?", "url"),
    "published": Question("When was it published? (2026-01-31)", "datePublished"),
    "version": Question("Which version is it? (1.0.0)", "version"),
    "citation": Question("How is it to be cited? (BibTeX)", "citeAs"),
    "purpose": Question("What was it made for, and what may it be used for?", "rai:dataUseCases"),
    "collection": Question(
        "Where and when were the memes and the topics collected, and how were they chosen?", "rai:dataCollection"
    ),
    "annotation": Question(
        "Who or what wrote the captions, the texts and the emotion words, by what instructions, and who checked it?",
        "rai:dataAnnotationProtocol",
    ),
    "people": Question(
        "Which persons can be recognised, by face or name, and did they and the authors agree?",
        "rai:personalSensitiveInformation",
    ),
    "offence": Question("What is rude, hateful or one-sided in it, and was it looked for?", "rai:dataBiases"),
    "limits": Question("What is it not fit for?", "rai:dataLimitations"),
    "maintenance": Question(
        "Who looks after it, and how is a meme taken out on request?", "rai:dataReleaseMaintenancePlan"
    ),
}


def read_answers(path, questions=QUESTIONS):
    """{key of questions: answer} of a JSON file; {} without one. InputError for other keys, and for what is no text."""
    if path is None:
        return {}
    answers = read_json(path, dict, 'a JSON object such as {"license": "…"}')
    for key, answer in answers.items():
        if key not in questions:
            raise InputError(f"{path}: found the key {key!r}, expected some of {', '.join(questions)}")
        if not isinstance(answer, str) or not answer.strip():
            raise InputError(f"{path}, {key!r}: found {answer!r}, expected a text; leave the key out to leave it open")
    try:
        datetime.date.fromisoformat(answers.get("published", "2026-01-31"))
    except ValueError:
        raise InputError(
            f"{path}, 'published': found {answers['published']!r}, expected a date as 2026-01-31"
        ) from None
    return answers
