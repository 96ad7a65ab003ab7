"""What the server remembers from request to request: encoded images and prompts up to their image. Answers stay the same."""

import threading
from types import SimpleNamespace

import pytest
import tiny_families
import torch

import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.integrations.serving.batching import Batcher, Job
from vlm_anchors.integrations.serving.chat_request import read_request
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.branch.bounded_store import BoundedStore
from vlm_anchors.interventions.branch.feature_cache import FeatureCache
from vlm_anchors.interventions.branch.prefix_store import PrefixStore
from vlm_anchors.methods import METHODS
from vlm_anchors.models.families import family_of
from vlm_anchors.scenes.questions import POPE

MIB = 2**20


@pytest.fixture(scope="module")
def vlm():
    """In float64 rounding neither hides a difference nor makes one."""
    return va.load("scenes", device="cpu", dtype=torch.float64)


@pytest.fixture
def tower_calls(vlm):
    """How many images the vision tower was given, call by call."""
    seen = []
    hook = vlm.model.model.vision_tower.register_forward_hook(lambda module, args, out: seen.append(len(out[0])))
    yield seen
    hook.remove()


def scene(*names, seed=0):
    return scenes.render(scenes.from_objects(list(names), seed=seed))


CUP, DOG = scene("cup", "fork"), scene("dog", "bowl")
FIRST = [
    {"role": "user", "content": [{"type": "image_url", "image_url": CUP}, {"type": "text", "text": "Is there a cup?"}]}
]
NEXT = [
    *FIRST, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "How many forks are there in the image?"},
]  # fmt: skip


def about(image, question):
    return [
        {"role": "user", "content": [{"type": "image_url", "image_url": image}, {"type": "text", "text": question}]}
    ]


def ask(batcher, *conversations, method="none"):
    """Texts and effects; the conversations are answered together."""
    jobs, left = [], threading.Semaphore(0)
    failures = []
    for turns in conversations:
        body = {"model": "m", "messages": turns, "method": method, "max_tokens": 4}
        request = read_request(body, "m", "none", lambda image: image, 64)
        jobs.append(Job(request, lambda error: (failures.append(error), left.release())))
    with batcher._changed:
        for job in jobs:
            batcher.submit(job)
    assert all(left.acquire(timeout=120) for _ in jobs) and not any(failures), failures
    return [(job.rows[0].text, job.rows[0].tokens, job.rows[0].effects) for job in jobs]


@pytest.fixture
def batcher(vlm, request):
    made = Batcher(vlm, max_wait=0.01, **getattr(request, "param", {}))
    yield made
    made.close(60)


def fresh(vlm, *conversations, method):
    """The same, from a server that remembers nothing."""
    made = Batcher(vlm, max_wait=0.01)
    try:
        return ask(made, *conversations, method=method)
    finally:
        made.close(60)


KEEPS = {"images": {"image_bytes": 64 * MIB}, "prefixes": {"image_bytes": 64 * MIB, "prefix_bytes": 64 * MIB}}
BOTH = pytest.mark.parametrize("batcher", KEEPS.values(), ids=KEEPS, indirect=True)


WHOLE = ("none", "clva", "vcd", "memvr")
SHARING = ("none", "clva", "clearsight", "deco", "dola", "pai", "vcd", "icd", "m3id", "avisc", "only", "vista")
CONVERSATIONS = [
    pytest.param(
        KEEPS[keeps], method, id=f"{keeps}-{method}", marks=() if method in ("none", "vcd") else pytest.mark.slow
    )
    for keeps, methods in (("images", WHOLE), ("prefixes", SHARING))
    for method in methods
]


@pytest.mark.parametrize(("batcher", "method"), CONVERSATIONS, indirect=["batcher"])
def test_the_next_question_of_a_conversation_encodes_nothing(vlm, batcher, tower_calls, method):
    wanted = [fresh(vlm, turns, method=method) for turns in (FIRST, NEXT)]
    tower_calls.clear()
    assert ask(batcher, FIRST, method=method) == wanted[0]
    extra = tower_calls[1:]  # VCD encodes the noised image by itself, each time
    assert tower_calls[0] == 1
    tower_calls.clear()
    assert ask(batcher, NEXT, method=method) == wanted[1]
    assert tower_calls == extra == ([1] if method == "vcd" else [])
    assert batcher.images.store.hits + batcher.prefixes.store.hits == 1


@BOTH
def test_a_method_may_change_from_question_to_question(vlm, batcher, tower_calls):
    methods = ("none", "clva", "none", "clva:alpha=5")
    wanted = [fresh(vlm, FIRST, method=method) for method in methods]
    tower_calls.clear()
    assert [ask(batcher, FIRST, method=method) for method in methods] == wanted
    assert tower_calls == [1]


@BOTH
@pytest.mark.parametrize(
    "method", ["clva", *(pytest.param(one, marks=pytest.mark.slow) for one in ("none", "vcd:alpha=0.5"))]
)
def test_images_of_one_size_never_mix(vlm, batcher, method):
    """One after the other, and together in every order, with questions of other lengths."""
    asked = [about(image, text) for image in (CUP, DOG) for text in (POPE.format(a="a cup"), "Describe.")]
    wanted = [fresh(vlm, one, method=method)[0] for one in asked]
    assert wanted[0][0] != wanted[2][0]
    for order in ([0], [2], [0, 1, 2, 3], [3, 0], [2, 0, 2, 1]):
        found = ask(batcher, *(asked[i] for i in order), method=method)
        # A branch's passes are counted for its batch, which goes on until its longest answer has ended.
        kept = 2 if method.startswith("vcd") else None
        assert [one[:kept] for one in found] == [wanted[i][:kept] for i in order]


@BOTH
def test_prompts_that_share_nothing_are_answered_beside_those_that_do(vlm, batcher):
    """Two images, none, and another system prompt."""
    two = [
        {"role": "user", "content": [*about(CUP, "x")[0]["content"][:1], *about(DOG, "What differs?")[0]["content"]]}
    ]
    alone = [{"role": "user", "content": "Is there a dog?"}]
    asked = [FIRST, two, alone, [{"role": "system", "content": "Be brief."}, *FIRST]]
    wanted = [fresh(vlm, one, method="clva")[0] for one in asked]
    for _ in range(2):
        assert ask(batcher, *asked, method="clva") == wanted
        assert [ask(batcher, one, method="clva")[0] for one in asked] == wanted


def test_the_bound_holds_and_the_least_recent_goes(vlm, tower_calls):
    image = 4 * vlm.model.config.get_text_config().hidden_size * 8  # bytes of 4 visual tokens in float64
    batcher = Batcher(vlm, max_wait=0, image_bytes=64 * MIB)
    ask(batcher, FIRST)
    one = batcher.images.store.bytes
    assert one > image
    batcher.close(60)
    batcher = Batcher(vlm, max_wait=0, image_bytes=2 * one, prefix_bytes=0)
    try:
        store = batcher.images.store
        for seed, (kept, hits) in enumerate([(1, 0), (2, 0), (2, 0)]):
            ask(batcher, about(scene("cup", seed=seed), "Describe."))
            assert (len(store), store.hits) == (kept, hits) and store.bytes <= 2 * one
        tower_calls.clear()
        ask(batcher, about(scene("cup", seed=2), "Describe."))
        assert tower_calls == [] and store.hits == 1
        ask(batcher, about(scene("cup", seed=0), "Describe."))
        assert tower_calls == [1]
    finally:
        batcher.close(60)


def test_a_prefix_larger_than_the_bound_is_used_and_not_kept(vlm):
    batcher = Batcher(vlm, max_wait=0, prefix_bytes=1)
    try:
        assert ask(batcher, NEXT, method="clva") == fresh(vlm, NEXT, method="clva")
        assert (len(batcher.prefixes.store), batcher.prefixes.store.bytes) == (0, 0)
    finally:
        batcher.close(60)


def test_a_store_counts_what_it_holds():
    store = BoundedStore(10)
    for key, size in (("a", 4), ("b", 4), ("a", 6), ("c", 3), ("huge", 11)):
        store.put(key, key, size)
    assert store.get("b") is None and store.get("huge") is None and store.get("a") == "a" and store.get("c") == "c"
    assert (store.bytes, len(store), store.hits, store.misses) == (9, 2, 2, 2)


QUICK = ("llava-next", "qwen3-vl", "idefics3")
FAMILIES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(tiny_families.FAMILIES)
]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_answers_the_same(name):
    """Two prompts with an image each, in both orders; under a method that reads the pixels again, and one that does not."""
    family = tiny_families.FAMILIES[name]
    model = family.build().double()
    vlm = SimpleNamespace(model=model, family=family_of(model.config))
    cache = FeatureCache(64 * MIB)
    made = tiny_families.prompts(family, [".i..", ".i."])
    for order in ([0, 1], [1]):
        batch = tiny_families.batch(family, [made[i] for i in order])
        batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
        for method in ("none", "vcd"):
            with attach(model, method), torch.no_grad():
                how = {"max_new_tokens": 2, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
                plain = torch.stack(model.generate(**batch, **how).logits)
                found = cache.encoded(vlm, batch, [1] * len(order))
                same = torch.stack(model.generate(**found, **how).logits)
            assert (plain - same).abs().max() < 1e-9
    assert (len(cache.store), cache.store.hits) == (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(tiny_families.FAMILIES))
def test_every_family_that_shares_a_prefix_goes_on_from_it_exactly(name):
    """A prefix that was read now, and one that is remembered, against the prompt read whole."""
    family = tiny_families.FAMILIES[name]
    model = family.build().double()
    processor = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=tiny_families.PAD))
    vlm = SimpleNamespace(model=model, family=family_of(model.config), processor=processor)
    store = PrefixStore(64 * MIB, FeatureCache(64 * MIB))
    batch = tiny_families.batch(family, tiny_families.prompts(family, [".i..."]))
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    for spec in ("none", "clva:tau=1"):
        method = METHODS.build(spec)
        with attach(model, method) as handle, torch.no_grad():
            how = {"max_new_tokens": 2, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
            whole, effects = torch.stack(model.generate(**batch, **how).logits), handle.effects
            for _ in range(2):
                found = store.inputs(vlm, handle, [method], batch, [1])
                if found is None:
                    assert name not in ("llava", "llava-next", "llava-onevision")
                    return
                again = torch.stack(model.generate(**found, **how).logits)
                assert (whole - again).abs().max() < 1e-9 and handle.effects == effects
    assert (len(store.store), store.store.hits) == (2, 2)
