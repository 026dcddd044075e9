"""Posts -> records: what the query of each is, which posts share a topic, and which cannot be used."""

from preprocess.building.inputs import Record, Unusable
from preprocess.comparing.near_duplicates import normalised_text
from preprocess.posted.queries import without_opening


def queries_of(post, kind):
    """A post's queries of a kind, "meaning" or "title": the one that is used in every split, then the further ones."""
    found = [post.title] if kind == "title" else map(without_opening, post.meanings)
    return list(filter(None, found))


def to_records(posts, kind):
    """(records, unusable [(Record, Unusable)], {post_id: further queries}) of a sequence of posts.

    A topic is called by the first post with its query; queries are equal whatever their case and white space.
    """
    records, unusable, further, topics = [], [], {}, {}
    for post in posts:
        query, *more = queries_of(post, kind) or [""]
        topic_id, query = topics.setdefault(normalised_text(query), (post.post_id, query))
        record = Record(post.place, post.image or "", topic_id, query, post.post_id)
        if not post.image:
            unusable.append((record, Unusable("no picture")))
        elif not query:
            unusable.append((record, Unusable(f"no {kind}")))
        else:
            records.append(record)
            further[post.post_id] = more
    return records, unusable, further
