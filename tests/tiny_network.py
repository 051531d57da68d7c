"""A network of a few weights that stands in for the real ones, where what surrounds a network is tested."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """(B, 3, H, W) -> (B, K, H, W). Batch normalization and dropout reveal an inexact resume."""

    def __init__(self, num_landmarks: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 5, padding=2), nn.BatchNorm2d(6)
        self.drop, self.last = nn.Dropout(dropout), nn.Conv2d(6, num_landmarks, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.last(self.drop(torch.relu(self.norm(self.first(images)))))
        return maps
