"""SUN397: folders of scenes by first letter, and the first of the ten official partitions."""

from __future__ import annotations

from pathlib import Path

from pgn_edge.train.data.dataset import Parts
from pgn_edge.train.data.readers.files import find_folder, find_part, listed, listed_items, namer, numbered, read_lines
from pgn_edge.train.data.readers.split_json import read_split

LAYOUT = (
    "sun397/ with SUN397/a/abbey/*.jpg …, ClassName.txt, Training_01.txt and Testing_01.txt (or split_zhou_SUN397.json)"
)
SPLIT = "split_zhou_SUN397.json"

# Where the name of a class is more than the words of its folder, the last folder's first.
ALIASES = {
    "shopbakery": "bakery shop",
    "exteriorbalcony": "balcony exterior",
    "interiorbalcony": "balcony interior",
    "backseatcarinterior": "car interior back seat",
    "frontseatcarinterior": "car interior front seat",
    "carrousel": "carousel",
    "exteriorcoveredbridge": "covered bridge exterior",
    "sanddesert": "sandy desert",
    "vegetationdesert": "desert vegetation",
    "doorelevator": "elevator door",
    "interiorelevator": "elevator interior",
    "exteriorgazebo": "gazebo exterior",
    "kindergardenclassroom": "kindergarten classroom",
    "watermoat": "moat filled with water",
    "mountainsnowy": "snowy mountain",
    "establishmentpoolroom": "public poolroom",
    "platformsubwaystation": "subway station platform",
    "eastasiatemple": "east asian temple",
    "southasiatemple": "south asian temple",
    "indoorproceniumtheater": "indoor theater proscenium",
    "indoorseatstheater": "indoor theater seats",
    "platformtrainstation": "train station platform",
    "coralreefunderwater": "underwater coral reef",
    "barrelstoragewinecellar": "wine cellar barrel storage",
    "bottlestoragewinecellar": "wine cellar bottle storage",
}


def read(root: Path) -> Parts:
    """Read SUN397: CoOp's split where its file lies there, else the first official partition.

    Args:
        root: holds `sun397` or `SUN397`, or is it; the lists may also lie among the images.

    Raises:
        DataError: a list is missing, or names a class that is not in `ClassName.txt`.

    Source: Xiao et al., "SUN Database: Large-scale Scene Recognition from Abbey to Zoo", 2010.
    """
    folder = find_folder(root, ("sun397", "SUN397", "."), (SPLIT, "Training_01.txt", "SUN397/Training_01.txt"), LAYOUT)
    images = folder if (folder / "a").is_dir() else find_part(folder, ("SUN397", "images"), LAYOUT)
    name_of = namer("sun397", ALIASES)
    if (folder / SPLIT).is_file():
        return read_split(folder / SPLIT, images, name_of)
    classes = read_lines(find_part(folder, ("ClassName.txt", "SUN397/ClassName.txt"), LAYOUT), LAYOUT)
    labels = numbered(line.lstrip("/") for line in classes)
    train, test = (
        listed(images, listed_items(find_part(folder, (name, f"SUN397/{name}"), LAYOUT), labels, LAYOUT))
        for name in ("Training_01.txt", "Testing_01.txt")
    )
    return Parts(tuple(name_of(" ".join(reversed(name.split("/")[1:]))) for name in labels), train, test)
