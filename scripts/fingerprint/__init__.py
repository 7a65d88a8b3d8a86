"""What the house computes, as hashes: two trees that compute the same bits write the same file."""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}  # before anything reads them
