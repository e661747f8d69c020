"""Models of the Hugging Face hub by their id: weights and what describes them, never code and never a pickle."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import AnyPath, exists
from mrt5_jax.runs.folders import local_copy

_ID = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_FILES = ("*.json", "*.safetensors")
"""What is downloaded of a model. A folder's code, and weights that are pickles, stay where they are."""


def is_hub_id(source: AnyPath) -> bool:
    """Says whether a name is a model's on the hub: OWNER/NAME or OWNER/NAME@REVISION, and no path.

    What is here is a path, and so is what would lie in a folder that is here: a misspelt `runs/vowels` is asked of
    nobody.
    """
    found = _ID.fullmatch(str(source))
    return found is not None and not exists(found[1])


def hub_folder(model_id: str) -> Path:
    """Downloads a model of the hub into the cache of huggingface_hub, or finds it there.

    The endpoint, the cache, a token and offline mode are those of huggingface_hub's variables: HF_ENDPOINT, HF_HOME or
    HF_HUB_CACHE, HF_TOKEN, HF_HUB_OFFLINE.

    Args:
        model_id: OWNER/NAME, or OWNER/NAME@REVISION with a branch, tag or commit.

    Returns:
        the folder in the cache, with the model's JSON and safetensors files. It is shared: write nothing there.

    Raises:
        UserError: huggingface_hub is not installed, there is no such model or revision, it needs a token or has no
            safetensors, or the hub cannot be reached and the cache does not have it.
    """
    try:
        from huggingface_hub import errors as hub_errors
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{model_id}: no folder here has this name; models of the hub need the extra hf: pip install 'mrt5-jax[hf]'"
        ) from None
    name, _, revision = model_id.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT") or None
    where = f"{model_id}: on the Hugging Face hub{f' at {endpoint}' if endpoint else ''}"
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=list(_FILES),
            endpoint=endpoint,
            cache_dir=os.environ.get("HF_HUB_CACHE") or None,
        )
    except hub_errors.GatedRepoError:
        raise UserError(f"{where} it is given out on request only: ask there, and set HF_TOKEN") from None
    except hub_errors.RevisionNotFoundError:
        raise UserError(f"{where} it has no revision {revision or 'main'}: give a branch, tag or commit") from None
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError):
        raise UserError(
            f"{where} there is no such model, or it needs a token (HF_TOKEN), and no folder here has this name"
        ) from None
    except hub_errors.LocalEntryNotFoundError:
        raise UserError(
            f"{where} it cannot be reached, and the cache does not have it: try again, or give a folder"
        ) from None
    except Exception as error:  # the disk's, the library's, and those of its HTTP client, which vary with its version
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} it could not be downloaded: {reason}") from None
    if not any(Path(folder).glob("*.safetensors")):
        raise UserError(
            f"{where} it has no safetensors, and other weights can hold code and are never downloaded: save the model "
            "in transformers by save_pretrained, and give that folder"
        )
    return Path(folder)


@contextlib.contextmanager
def source_folder(source: AnyPath) -> Iterator[Path]:
    """Gives the folder itself, a copy of one in a bucket, or the cached folder of a model of the hub.

    Raises:
        UserError: see `hub_folder` and `local_copy`.
    """
    if is_hub_id(source):
        yield hub_folder(str(source))
        return
    with local_copy(source) as folder:
        yield folder
