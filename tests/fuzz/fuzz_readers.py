"""Coverage-guided fuzzing of the readers, and of what the sharder makes of their documents.

    pip install -e '.[fuzz]'
    python tests/fuzz/fuzz_readers.py bioc_xml --seconds 600 --seed 1

Whatever the bytes are, they become documents or counted losses: never another exception, never
more than some seconds or MB, and every mention that is kept lies within its text. What reads or
cuts quickly gives what its careful twin gives. Compiled loops check their bounds here, and are
compiled anew for it. An input that breaks this is written to `crash-…` in the working directory.
"""

import argparse
import gzip
import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path

import atheris
import numpy as np

os.environ |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": tempfile.mkdtemp()}
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(
    include=["embre.corpora", "embre.sharding.joining", "embre.shards.encode"]
):
    from embre.corpora import FORMATS, read_documents, read_raw
    from embre.corpora.assemble import check
    from embre.corpora.window import Window
    from embre.held_out import fingerprint
    from embre.sharding.joining import join_pieces
    from embre.shards.encode import encode_documents

from embre.corpora import write_pubtator
from embre.demo.corpus import make_corpus
from embre.tally import Tally
from embre.tokenization.cached import CachedTokenizer
from embre.tokenization.tokenizer import load_tokenizer
from tests.bioc_json_files import write_bioc_json
from tests.corpora.test_any_bytes import BASES
from tests.corpora.test_pubtator_plain import assert_same
from tests.tiny import tiny_tokenizer

WRITERS = {"pubtator": write_pubtator, "bioc_json": write_bioc_json}
MAX_BYTES = 12288
SECONDS_OF_ONE_INPUT = 5
MB_OF_ALL = 2048


def seeds(format: str, folder: Path) -> None:
    """Small files of a format to start from."""
    (folder / "small").write_bytes(BASES[format])
    if format in WRITERS:
        WRITERS[format](folder / "demo", make_corpus(1, seed=1))


def archive_seeds(folder: Path) -> None:
    """The same in wrappings."""
    plain = BASES["pubtator"]
    tape = io.BytesIO()
    with tarfile.open(fileobj=tape, mode="w") as archive:
        for name in ("a.PubTator", "folder/b.PubTator"):
            info = tarfile.TarInfo(name)
            info.size = len(plain)
            archive.addfile(info, io.BytesIO(plain))
    wrapped = {"tar": tape.getvalue(), "gz": gzip.compress(plain, mtime=0)}
    for name, data in wrapped.items():
        (folder / name).write_bytes(data)
    (folder / "tar.gz").write_bytes(gzip.compress(tape.getvalue(), mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("target", choices=[*FORMATS, "archive"])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tiny_tokenizer(Path(folder) / "tokenizer")
        tokenizer = load_tokenizer(Path(folder) / "tokenizer")
        cached = CachedTokenizer(tokenizer)
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        if options.target == "archive":
            archive_seeds(corpus)
        else:
            seeds(options.target, corpus)

        def read(data: bytes) -> None:
            tally = Tally()
            window = Window(io.BufferedReader(io.BytesIO(data)), "f", tally)  # type: ignore[arg-type]
            chunks = list(FORMATS[options.target].cut(window))
            if options.target == "pubtator":
                for chunk in chunks:
                    assert_same(chunk.data)
            docs = (check(raw, tally) for chunk in chunks for raw in read_raw(chunk, tally))
            joined = list(join_pieces(docs, tally))
            for doc in joined:
                for mention in doc.mentions:
                    assert 0 <= mention.start < mention.end <= len(doc.text), mention
                fingerprint(doc)
            quick, careful = (encode_documents(joined, t, tally) for t in (cached, tokenizer))
            for name in ("tokens", "token_starts", "passages", "mentions", "mention_starts"):
                np.testing.assert_array_equal(getattr(quick, name), getattr(careful, name))

        def unpack(data: bytes) -> None:
            (Path(folder) / "input").write_bytes(data)
            try:
                for _ in read_documents(Path(folder) / "input", Tally()):
                    pass
            except ValueError as error:
                assert "cannot tell the format" in str(error), error

        arguments = [
            sys.argv[0],
            f"-max_total_time={options.seconds}",
            f"-seed={options.seed}",
            f"-max_len={MAX_BYTES}",
            f"-timeout={SECONDS_OF_ONE_INPUT}",
            f"-rss_limit_mb={MB_OF_ALL}",
            "-print_final_stats=1",
            str(corpus),
        ]
        atheris.Setup(arguments, unpack if options.target == "archive" else read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
