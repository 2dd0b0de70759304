"""MedCLIP's text tower: a BERT, three of its layers averaged over all tokens, one matrix.

Keys: `text.*` the BERT without its pooler, `text_head.weight` the projection.
"""

from __future__ import annotations

from torch import Tensor, nn

from tier_train.towers.image_encoder import unit_norm
from tier_train.towers.text_encoder import TextTower


class MedClipTextEncoder(TextTower):
    def __init__(self, bert: nn.Module, width: int, embed_dim: int) -> None:
        super().__init__()
        self.text = bert
        self.text_head = nn.Linear(width, embed_dim, bias=False)

    def _layers(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[N, T, width]: the mean of the first, second and last layer's output."""
        out = self.text(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        hidden = out.hidden_states  # [0] is the embedding, before the first layer
        mean: Tensor = (hidden[1] + hidden[2] + hidden[-1]) / 3
        return mean

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 [N, T], mask 1 for a token and 0 for padding → token_e [N, T, D]."""
        return unit_norm(self.text_head(self._layers(ids, mask)))

    def sentence_e(self, ids: Tensor, mask: Tensor) -> Tensor:
        """text_e [N, D], unit norm: the mean over the T tokens, padding included.

        That is what the published weights were trained with. A sentence alone has no padding, and
        prompts are embedded alone, so that their embedding does not depend on their neighbours.
        """
        return unit_norm(self.text_head(self._layers(ids, mask).mean(1)))
