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
