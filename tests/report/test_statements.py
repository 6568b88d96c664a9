"""What the report's sentences are made of."""

from cognates.methods import names
from cognates.report.statements import display_name

BUILT_IN = (
    "beta-vae",
    "byol",
    "clip",
    "cr-vae",
    "dino",
    "loss-prediction",
    "mc-info-nce",
    "post-hoc",
    "simclr",
    "simsiam",
    "simve",
    "ssl-hsic",
    "vae",
    "vi-simsiam",
    "vicreg",
)


def test_every_method_of_the_library_has_a_name_for_text():
    assert set(BUILT_IN) <= set(names())
    written = [display_name(name) for name in BUILT_IN]
    assert [name.lower() for name in written] == list(BUILT_IN)
    assert all(name != name.lower() for name in written)
