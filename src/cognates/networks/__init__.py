"""Encoders, decoders, heads and what loads and stores their weights."""

from cognates.networks.decoders import build_decoder, decoder_names
from cognates.networks.registry import as_encoder, bring, build_encoder, encoder_names
from cognates.networks.weights import load_encoder_weights, to_torchvision

__all__ = [
    "as_encoder",
    "bring",
    "build_decoder",
    "build_encoder",
    "decoder_names",
    "encoder_names",
    "load_encoder_weights",
    "to_torchvision",
]
