"""What makes a checkpoint folder self-contained: the Auto class map and the code files that travel with it.

Transformers flattens the files of a remote-code repository into one folder, which is why every module of this
package carries the ``_xgenmm`` suffix and imports its siblings by name only. From a local folder, 4.57 fetches only
the siblings that the file with the Auto class itself imports. The siblings of ``configuration_xgenmm`` (read before
any model), ``image_processing_xgenmm``, ``processing_xgenmm`` and ``tokenization_xgenmm`` must not need any others.
"""

import shutil
from pathlib import Path


AUTO_MAP = {
    "AutoConfig": "configuration_xgenmm.XGenMMConfig",
    "AutoModel": "modeling_xgenmm.XGenMMModel",
    "AutoModelForImageTextToText": "modeling_xgenmm.XGenMMForConditionalGeneration",
    "AutoModelForVision2Seq": "modeling_xgenmm.XGenMMForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_xgenmm.XGenMMForConditionalGeneration",
    "AutoProcessor": "processing_xgenmm.XGenMMProcessor",
    "AutoImageProcessor": "image_processing_xgenmm.XGenMMImageProcessor",
}


def copy_remote_code(folder: str | Path) -> list[str]:
    """Copies every module of this package into a checkpoint folder."""
    sources = sorted(Path(__file__).parent.glob("*_xgenmm.py"))
    for source in sources:
        shutil.copyfile(source, Path(folder) / source.name)
    return [source.name for source in sources]
