"""Read text, sound, tables, labels, tags and piano rolls, and encode them for networks. Needs no torch."""

from throughtime.data.corpus import Corpus, EncodedText, encode_text, prepare_text
from throughtime.data.streams import Streams, fitting_batch
from throughtime.data.text import default_text, read_text
from throughtime.data.vocabulary import Vocabulary, build_vocabulary, load_vocabulary

__all__ = [
    "Corpus",
    "EncodedText",
    "Streams",
    "Vocabulary",
    "build_vocabulary",
    "default_text",
    "encode_text",
    "fitting_batch",
    "load_vocabulary",
    "prepare_text",
    "read_text",
]
