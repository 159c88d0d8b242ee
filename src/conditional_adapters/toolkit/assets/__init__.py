"""Real weights and data from installed packages, so nothing is downloaded at run time.

    model = load_packaged_model("minilm")
    tokenizer = load_packaged_tokenizer("minilm")

`_catalogue` is the table of files with their pinned hashes. `_dinov2` (ONNX) and `_whisper`
(CTranslate2, read by `_ctranslate2`) convert weights to the names of transformers, and
`_pretrained` builds models from them. `_models`, `_data`, `_prompts` and `_adapters` are the public
functions. Nothing here unpickles or executes code of the packages.
"""

from ._adapters import find_adapter as find_adapter
from ._adapters import packaged_adapter_names as packaged_adapter_names
from ._catalogue import ASSETS as ASSETS
from ._catalogue import Asset as Asset
from ._data import FASHION_MNIST_CLASSES as FASHION_MNIST_CLASSES
from ._data import NewsArticle as NewsArticle
from ._data import NewsgroupPost as NewsgroupPost
from ._data import bbc_news as bbc_news
from ._data import fashion_mnist as fashion_mnist
from ._data import newsgroups as newsgroups
from ._models import load_packaged_feature_extractor as load_packaged_feature_extractor
from ._models import load_packaged_image_processor as load_packaged_image_processor
from ._models import load_packaged_model as load_packaged_model
from ._models import load_packaged_tokenizer as load_packaged_tokenizer
from ._models import packaged_model_names as packaged_model_names
from ._prompts import Prompt as Prompt
from ._prompts import telephone_prompts as telephone_prompts
