"""AttAnchor's two algorithms as the paper writes them: plain loops over words and patches of one sample, in double precision.

A inserted sequence is a list of (source, host): a token's own position twice where it is no copy, the copied token and the
token it stands behind where it is one, (None, host) for a pause token.
"""

import math


def cos(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def text_into_image(length, words, patches, vectors, tau, order="prompt", images="best", image_of=None):
    """Algorithm 1. words, patches: positions; vectors: one for each position; image_of: image of each patch."""
    behind = {place: [] for place in range(length)}
    groups = [patches] if images == "best" else group(patches, image_of)
    for word in words if tau < 1 else []:
        for candidates in groups:
            best, place = -math.inf, None
            for patch in candidates:
                if patch < word and cos(vectors[word], vectors[patch]) > best:
                    best, place = cos(vectors[word], vectors[patch]), patch
            if place is not None and best >= tau:
                behind[place].append(word)
    if order == "reverse":
        behind = {place: copies[::-1] for place, copies in behind.items()}
    return unrolled(length, behind)


def text_into_image_variant(length, words, patches, vectors, tau, each, place, keep, image_of, row_of, end):
    """Algorithm 1 with the variants of docs/open-questions.md. row_of: (image, row) of each patch; end: the last token."""
    pairs = []
    if each == "word":
        for word in words:
            before = [patch for patch in patches if patch < word]
            if before:
                best = max(before, key=lambda patch: cos(vectors[word], vectors[patch]))
                pairs.append((word, best))
    else:
        for patch in patches:
            behind = [word for word in words if word > patch]
            if behind:
                pairs.append((max(behind, key=lambda word: cos(vectors[word], vectors[patch])), patch))
    pairs = [(word, patch) for word, patch in pairs if tau < 1 and cos(vectors[word], vectors[patch]) >= tau]

    behind = {at: [] for at in range(length)}
    for word, patch in pairs:
        if place == "row":
            patch = max(other for other in patches if row_of[other] == row_of[patch])
        elif place == "image":
            patch = max(other for other in patches if image_of[other] == image_of[patch])
        behind[patch].append(word)

    anchored = {word for word, _ in pairs}
    gone = {"all": set(), "others": anchored, "anchors": set(words) if anchored else set()}[keep] - {end}
    return [pair for pair in unrolled(length, behind) if pair[0] != pair[1] or pair[0] not in gone]


def image_into_text(length, words, patches, vectors, tau, order="raster", pauses=0, end=None):
    """Algorithm 2, and pause tokens behind the prompt's last token."""
    behind = {place: [] for place in range(length)}
    for patch in patches if tau < 1 else []:
        best, place = -math.inf, None
        for word in words:
            if patch < word and cos(vectors[patch], vectors[word]) > best:
                best, place = cos(vectors[patch], vectors[word]), word
        if place is not None and best >= tau:
            behind[place].append((patch, best))
    for place, found in behind.items():
        if order == "cosine":
            found = sorted(found, key=lambda copy: -copy[1])
        behind[place] = [patch for patch, _ in found]
    if pauses:
        behind[end] += [None] * pauses
    return unrolled(length, behind)


def unrolled(length, behind):
    sequence = []
    for place in range(length):
        sequence.append((place, place))
        sequence += [(copy, place) for copy in behind[place]]
    return sequence


def group(patches, image_of):
    numbers = sorted({image_of[patch] for patch in patches})
    return [[patch for patch in patches if image_of[patch] == number] for number in numbers]
