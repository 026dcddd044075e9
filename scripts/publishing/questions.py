"""What only the owner of a model can say."""

TOWERS = "towers"
QUESTIONS = {
    "license": "Under which licence may the weights be used? (Best by the hub's name for it: mit, cc-by-nc-4.0)",
    TOWERS: "Under which licences are the towers that these weights contain, and do they allow this publication?",
    "creator": "Which persons, as a group, or which organisation made the model, and how are they reached?",
    "code": "At which address is the program that reads it?",
    "data": "Where do the memes come from that it was trained on, and do their owners agree?",
    "annotation": "Who or what wrote the captions, the texts and the emotion words, and who checked it?",
    "people": "Which persons can be recognised in the memes, by face or name, and did they agree?",
    "offence": "What is rude, hateful or one-sided in what it was trained on, and was it looked for?",
    "purpose": "What was it made for, and what may it be used for?",
    "limits": "What is it not fit for, beside what is said above?",
    "citation": "How is it to be cited? (BibTeX)",
}
