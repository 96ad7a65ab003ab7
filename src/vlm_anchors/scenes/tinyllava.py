"""A small LLaVA in Hugging Face's own classes: configuration, word-level tokenizer, processor, chat template.

What `save` writes is a plain LlavaForConditionalGeneration folder; loading it needs no code of ours."""

import os
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from .coco import CATEGORIES
from .questions import (  # fmt: skip
    CHAIR,
    COLOUR,
    COUNT,
    DETAIL,
    EXISTENCE,
    IRREGULAR,
    NUMBERS,
    PLACES,
    POPE,
    POSITION,
    SHORT,
    SUFFIXES,
    SYNONYMS,
    plural,
)
from .scene import COLOURS, POSITIONS, SIZE

SYSTEM = "A chat about an image."
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
ROLES = ("USER:", "ASSISTANT:")
PATCH = 16
# Words of the remaining phrasings, of the methods' prompts, and of ordinary questions. Those that no training question
# holds are strewn into some of them (train.py), so that the model has learnt to read past them.
OTHER = """
a an the and or of in on at to is are was be do does did it its this that these those there here what which where who how many
much any some no not yes only just also all both each other one two i you we me my your he she they them his her can could would
should will may might have has had with without from by for as about into near next beside behind under below above over between
left right top bottom side middle center centre upper lower corner part area position close together different places part
pair pairs show shows shown see seen look looks contain contains present visible exist exists appear appears find found tell
describe description detail details detailed briefly caption count number color colour image picture photo scene object
objects thing things something anything please help answer question using single word phrase words short long give write
happening doing explain name list identify answering based if then so but because very really actually truly
large small big little tiny red orange yellow green blue purple pink white black brown gray grey dark light bright
animal animals food vehicle vehicles furniture kitchen street table room water grass sky snow background foreground front back
helpful assistant chat curious confused detector provide fuzzy overview impression careful clear exactly correct true false
human artificial intelligence between gives polite answers user s t don isn aren doesn can maybe sure think know most more less
than same new old first second last say says said does standing sitting holding wearing main few several none zero everything
like want let now out up down off being been has contains include includes including within inside outside around
""".split()
CAPITAL = ("the", "there", "a", "an", "yes", "no", *NUMBERS[:9], *COLOURS, "top", "left", "right", "center", "bottom")


def vocabulary() -> list[str]:
    """Every token, special ones first."""
    forms = (POPE, *EXISTENCE, *SUFFIXES, *COUNT, *COLOUR, *POSITION, *SHORT, *DETAIL, CHAIR, SYSTEM)
    texts = [form.format(a="", x="", plural="") for form in forms]
    names = [*CATEGORIES, *(word for words in SYNONYMS.values() for word in words)]
    texts += [
        *names,
        *map(plural, names),
        *IRREGULAR.values(),
        *NUMBERS,
        *COLOURS,
        *POSITIONS,
        *PLACES.values(),
        *OTHER,
    ]
    marks = list(".,?!:;'\"()-/") + list("0123456789")
    words = {word for text in texts for word in text.lower().translate(str.maketrans("?.,", "   ")).split()}
    capital = [word.capitalize() for word in CAPITAL]
    return list(dict.fromkeys([*SPECIAL, *ROLES, *marks, *capital, *sorted(words)]))


def tokenizer() -> PreTrainedTokenizerFast:
    """Word-level; letters are lowered except for the first word of a sentence where the model itself begins with it."""
    words = vocabulary()
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    start = r"(?:(?<=[.!?] )|(?<![\s\S]))"  # behind a full stop, or nothing before
    capital = [normalizers.Replace(Regex(rf"{start}{word}(?![a-z])"), word.capitalize()) for word in CAPITAL]
    space = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *space, *capital])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # spaces between words, none before punctuation
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", words.index("<s>"))])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, padding_side="left", model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.add_tokens([AddedToken(role, normalized=False) for role in ROLES])
    return made


CHAT_TEMPLATE = (
    "{%- set first = messages[0] -%}"
    "{%- if first['role'] == 'system' -%}"
    "{{ first['content'] if first['content'] is string else first['content'] | map(attribute='text') | join(' ') }}{{ ' ' }}"
    "{%- else -%}" + SYSTEM + "{{ ' ' }}{%- endif -%}"
    "{%- for message in messages if message['role'] != 'system' -%}"
    "{{ message['role'].upper() + ': ' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)


def processor(words: PreTrainedTokenizerFast | None = None, chat_template: str = CHAT_TEMPLATE) -> LlavaProcessor:
    """Images squeezed to 128 x 128 pixels in [-1, 1]; one `<image>` becomes 64 visual tokens."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessorPil(
        size=size, do_center_crop=False, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor=images, tokenizer=words or tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        image_token="<image>", num_additional_image_tokens=1, chat_template=chat_template,
    )  # fmt: skip


def config(words: PreTrainedTokenizerFast, width: int = 192, layers: int = 12, vision_layers: int = 6) -> LlavaConfig:
    """Decoder and vision tower of one width, six heads each."""
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=vision_layers, num_attention_heads=6,
        image_size=SIZE, patch_size=PATCH, projection_dim=width,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=-(-len(words) // 32) * 32, hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=layers,
        num_attention_heads=6, max_position_embeddings=1024, tie_word_embeddings=False, rms_norm_eps=1e-5,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIZE // PATCH) ** 2, vision_feature_layer=-1, vision_feature_select_strategy="default",
        pad_token_id=words.pad_token_id, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        tie_word_embeddings=False,
    )  # fmt: skip


def build(**sizes: int) -> LlavaForConditionalGeneration:
    """A fresh model in float32; seed torch first."""
    words = tokenizer()
    model = LlavaForConditionalGeneration(config(words, **sizes))
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=128, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return model


def save(model: LlavaForConditionalGeneration, folder: str | Path) -> None:
    """Writes the folder beside its place and renames it there, so that a reader never finds half a model."""
    import torch

    folder = Path(folder)
    fresh, stale = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    state = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    copy = LlavaForConditionalGeneration(model.config).to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.generation_config = model.generation_config
    copy.save_pretrained(fresh)
    processor().save_pretrained(fresh)
    if folder.exists():
        os.rename(folder, stale)
    os.rename(fresh, folder)
    if stale.exists():
        for path in stale.iterdir():
            path.unlink()
        stale.rmdir()


def words_of(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a saved folder."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
