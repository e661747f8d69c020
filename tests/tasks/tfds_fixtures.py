"""Stand-ins for TensorFlow Datasets, of the features that the datasets' own code declares."""

import tensorflow as tf
import tensorflow_datasets as tfds

from mrt5_jax.tasks import xnli

NUM_EXAMPLES = 12


def fixture(builder: tfds.core.DatasetBuilder, split: str, **kwargs: object) -> tf.data.Dataset:
    """Examples of the features that the dataset's own code declares."""
    place = f"{builder.info.full_name} {split}"
    make = {"multi_nli": multi_nli, "xnli": translated_nli, "xtreme_xnli": translated_nli}.get(builder.name, answered)
    dataset = tf.data.Dataset.from_tensor_slices(make(place))
    assert tf.nest.map_structure(lambda spec: spec.dtype, dataset.element_spec) == builder.info.features.dtype
    return dataset


def numbered(text: str) -> list[str]:
    return [f"{text} {number}" for number in range(NUM_EXAMPLES)]


def multi_nli(place: str) -> dict:
    return {
        "premise": numbered("premise"),
        "hypothesis": [f"hypothesis {place}"] * NUM_EXAMPLES,
        "label": tf.range(NUM_EXAMPLES, dtype=tf.int64) % 3,
    }


def translated_nli(place: str) -> dict:
    languages = xnli.LANGUAGES[::-1]  # in no particular order
    return {
        "premise": {language: numbered(f"premise {language}") for language in xnli.LANGUAGES},
        "hypothesis": {
            "language": [languages] * NUM_EXAMPLES,
            "translation": [[f"{language} {place}" for language in languages]] * NUM_EXAMPLES,
        },
        "label": tf.range(NUM_EXAMPLES, dtype=tf.int64) % 3,
    }


def answered(place: str) -> dict:
    answers = [["first", "the second"][: 1 + number % 2] for number in range(NUM_EXAMPLES)]
    return {
        "id": [f"swahili-{number}-1" for number in range(NUM_EXAMPLES)],
        "title": ["t"] * NUM_EXAMPLES,
        "question": numbered("who?"),
        "context": [place] * NUM_EXAMPLES,
        "answers": {
            "text": tf.ragged.constant(answers),
            "answer_start": tf.ragged.constant([[0, 1][: len(own)] for own in answers]),
        },
    }
