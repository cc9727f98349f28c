"""Qwen2.5-VL and Qwen3-VL: M-RoPE. Patches of a picture have three positions, text and height and width; here they
are tokens like others, since only their positions matter.

Text may go on in two ways after a picture of n patches. After the largest of its positions, as transformers does
(WHOLE): every lane keeps all patches of each picture, and the positions are then those that transformers gives to
what is kept. Or n positions after the picture's start (PARTS): positions rise by one per entry, and any patch may go.
"""

import dataclasses
import functools
import types

import torch
from torch import nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel, Qwen2_5_VLTextModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel, Qwen3VLTextModel

from .frame import KEEP, LIMIT, Family, PotLayer, Steered, hidden

# (first token, rows, columns). The last picture of PARTS is not over yet when a distillation is due.
PARTS = (6, 2, 4), (36, 3, 4)
WHOLE = (5, 2, 2), (34, 2, 2)


class Positions:
    """Text, height and width of each token of a stream."""

    def __init__(self, pictures, whole, length=200):
        starts = {first: (height, width) for first, height, width in pictures}
        text, rows, self.is_text = 0, [], []
        while len(rows) < length:
            height, width = starts.get(len(rows), (1, 1))
            rows += [[text, text + y, text + x] for y in range(height) for x in range(width)]
            self.is_text += [height * width == 1] * (height * width)
            text += max(height, width) if whole else height * width
        self.rows = torch.tensor(rows)
        self.offsets = self.rows - torch.arange(len(rows))[:, None]  # from a token's place in the stream


class MropeLayer(PotLayer):
    """Its entries' positions differ from their places as they did when they were read."""

    def __init__(self, turn, offsets, coming):
        super().__init__(lambda keys, places, back: turn(keys, places[:, None] + offsets[self.read[:, places]], back))
        self.coming = coming  # () -> the places in the stream of a pass's tokens
        self.read = None  # (kv heads, entries) places in the stream

    def update(self, keys, values):
        new = self.coming().expand(keys.shape[1], -1)
        self.read = new if self.read is None else torch.cat([self.read, new], 1)
        return super().update(keys, values)

    def truncate(self, size):
        super().truncate(size)
        self.read = self.read[:, :size]

    def keep(self, kept):
        super().keep(kept)
        self.read = torch.stack([self.read[head, row] for head, row in enumerate(kept)])


class Pictures(Steered):
    """`index` is transformers' function of positions, to go by if pictures stay whole."""

    def __init__(self, family, pictures, index=None):
        self.pictures, self.index = pictures, index
        self.positions = Positions(pictures, whole=index is not None)
        super().__init__(family)
        self.check_positions(range(len(self.positions.rows)), self.positions.rows)

    def check_positions(self, read, rows):
        """That transformers gives these tokens of the stream, of which each picture is whole, these positions."""
        if self.index is None:
            return
        start, patch, other = range(3)
        ids = [other if self.positions.is_text[at] else patch for at in read]
        held = [picture for picture in self.pictures if picture[0] in read]
        for first, *_ in held:
            assert ids[list(read).index(first) - 1] == other
            ids[list(read).index(first) - 1] = start
        vision = types.SimpleNamespace(spatial_merge_size=1, tokens_per_second=1)
        config = types.SimpleNamespace(
            vision_config=vision, image_token_id=patch, video_token_id=-1, vision_start_token_id=start
        )
        grids = torch.tensor([[1, height, width] for _, height, width in held])
        theirs, _ = self.index(types.SimpleNamespace(config=config), torch.tensor([ids]), image_grid_thw=grids)
        assert torch.equal(theirs[:, 0].T, rows), f"{self.family.name}: transformers has other positions"

    def make_layer(self, i):
        return MropeLayer(functools.partial(self.turn, i), self.positions.offsets, self.coming)

    def coming(self):
        """A probe goes on as the last text did."""
        if not self.probing:
            return torch.arange(self.stream, self.stream + self.count)
        last = max(at for at in range(self.stream) if self.positions.is_text[at])
        return torch.full([self.count], last)

    def before(self, probe):
        self.probing = probe

    def cos_sin(self, at):
        """For positions (kv heads or 1, tokens, 3)."""
        return self.decoder.rotary_emb(torch.zeros(1), at.permute(2, 0, 1))

    def turn(self, i, keys, at, back):
        cos, sin = self.cos_sin(at)
        # Heads as a batch: each has positions of its own.
        return self.rotated(keys[0][:, None], cos, -sin if back else sin)[:, 0][None]

    def rotated(self, keys, cos, sin):
        return self.module.apply_rotary_pos_emb(keys, keys, cos, sin)[1]

    def steered(self, i, kwargs):
        places = torch.arange(self.size, self.size + self.count)
        at = places[:, None] + self.positions.offsets[self.coming()]
        mask = hidden(torch.arange(self.size + self.count)[None] <= places[:, None])
        return kwargs | {"position_embeddings": self.cos_sin(at[None]), "attention_mask": mask}

    def plain(self, tokens):
        other = self.family.model_class(self.config).eval()
        other.load_state_dict(self.model.state_dict())
        with torch.no_grad():
            return other(torch.tensor([tokens]), position_ids=self.positions.rows[: len(tokens)].T[:, None]).logits[0]

    def choose(self, choice, lane):
        """Where pictures stay whole: all patches, text before each, and other text."""
        if self.index is None:
            return super().choose(choice, lane)
        heads = self.config.num_key_value_heads
        read = self.layers[lane // heads].read[lane % heads].tolist()
        kept, before = [], []
        for i, at in enumerate(read):
            if self.positions.is_text[at]:
                before.append(i)
                continue
            kept.append(i)
            if before:
                kept.append(choice.choice(before))
            before = []
        others = [i for i in range(LIMIT) if self.positions.is_text[read[i]] and i not in kept]
        return sorted(kept + choice.sample(others, KEEP - len(kept)))

    def keep(self, kept):
        super().keep(kept)
        for layer in self.layers:
            for read in layer.read:
                self.check_positions(read.tolist(), torch.arange(KEEP)[:, None] + self.positions.offsets[read])

    def more(self):
        return {"positions": self.positions.rows[: self.stream].tolist()}


class Sections(Pictures):
    def rotated(self, keys, cos, sin):
        sections = self.config.rope_parameters["mrope_section"]
        return self.module.apply_multimodal_rotary_pos_emb(keys, keys, cos, sin, sections)[1]


def causal(decoder_class):
    """The language model alone, which transformers has as a part of the whole only."""

    @dataclasses.dataclass
    class Output:
        logits: torch.Tensor

    class Model(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.model = decoder_class(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

        def forward(self, tokens, **arguments):
            return Output(self.lm_head(self.model(tokens, **arguments).last_hidden_state))

    return Model


def family(name, config_class, decoder_class, **more):
    config = {
        "vocab_size": 40, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    }
    return Family(name, config_class, causal(decoder_class), config | more)


def steered():
    rope = {"rope_type": "default", "rope_theta": 500.0}

    def qwen2_5(name):
        sections = rope | {"mrope_section": [1, 2, 3]}
        return family(name, Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel, rope_parameters=sections)

    def qwen3(name):
        sections = rope | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
        return family(name, Qwen3VLTextConfig, Qwen3VLTextModel, head_dim=16, rope_parameters=sections)

    yield "qwen2_5_vl_parts", lambda: Sections(qwen2_5("qwen2_5_vl_parts"), PARTS)
    yield "qwen2_5_vl_whole", lambda: Sections(qwen2_5("qwen2_5_vl_whole"), WHOLE, Qwen2_5_VLModel.get_rope_index)
    yield "qwen3_vl_parts", lambda: Pictures(qwen3("qwen3_vl_parts"), PARTS)
    yield "qwen3_vl_whole", lambda: Pictures(qwen3("qwen3_vl_whole"), WHOLE, Qwen3VLModel.get_rope_index)
