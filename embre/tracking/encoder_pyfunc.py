"""The registered encoder: texts in, one vector each out (the state of [CLS]).

It runs on the device of EMBRE_DEVICE if set, else on a GPU if there is one, else on the CPU.
"""

from typing import Any

import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from embre.tracking.serving_device import serving_device

TEXTS_AT_ONCE = 32  # padded to the longest of them


class EncoderPyfunc(PythonModel):
    """A plain Hugging Face BERT."""

    def load_context(self, context: Any) -> None:
        folder = context.artifacts["model"]
        logging.set_verbosity_error()  # else it reports the unused masked-token head
        self.tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        self.model = model.to(serving_device()).eval()

    def predict(self, model_input: list[str]) -> list[list[float]]:
        """Returns (num_texts, hidden size); texts are truncated to the encoder's maximum length."""
        starts = range(0, len(model_input), TEXTS_AT_ONCE)
        parts = [self._vectors(model_input[start : start + TEXTS_AT_ONCE]) for start in starts]
        return [vector for part in parts for vector in part]

    def _vectors(self, texts: list[str]) -> list[list[float]]:
        inputs = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.model.config.max_position_embeddings,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(self.model.device)
        with torch.no_grad():
            return self.model(**inputs).last_hidden_state[:, 0].tolist()


set_model(EncoderPyfunc())
