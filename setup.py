"""Package metadata. Dependencies come from PyPI only; Detectron2 is optional (see detcon_d2/d2.py)."""

from pathlib import Path

from setuptools import find_packages, setup

_README = Path(__file__).parent / "README.md"

setup(
    name="detcon_d2",
    version="0.1.0",
    description="DetCon pretraining as Detectron2 meta-architectures, from a folder of images to a Mask R-CNN backbone",
    long_description=_README.read_text(encoding="utf-8") if _README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # configs/ at the top of the repository is a folder of the installed package; detcon_d2/model_zoo finds it in both places.
    packages=[*find_packages(include=["detcon_d2", "detcon_d2.*"]), "detcon_d2.model_zoo.configs"],
    package_dir={"detcon_d2.model_zoo.configs": "configs"},
    package_data={"": ["*.yaml", "*.json", "*.css", "*.html"], "detcon_d2.model_zoo.configs": ["*/*.yaml"]},
    entry_points={"console_scripts": ["detcon_d2=detcon_d2.cli.main:main"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "matplotlib>=3.7",
        "pycocotools>=2.0.6",
        "scikit-image>=0.22",
        "opencv-python-headless>=4.11",
        "numpy>=1.24",
        "scipy>=1.10",
        "pillow>=10.1",
        "pyyaml>=6",
        "tqdm>=4.66",
        "tensorboard>=2.14",
        "shapely>=2",
        "tabulate",
        "termcolor",
        "yacs>=0.1.8",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.90",
            "ruff>=0.6",
            "setuptools>=70.1",  # builds the wheel that a test installs
            "safetensors>=0.4",
            "numba>=0.60",
            "zlib-ng>=0.5",
        ],
        "fast": ["numba>=0.60", "zlib-ng>=0.5"],
        "bench": ["lightly>=1.6"],
        "cluster": ["ray[data]>=2.9"],
        "convert": ["safetensors>=0.4"],
    },
)
