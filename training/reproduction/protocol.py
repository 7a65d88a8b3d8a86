"""How the report is to be read, and how its rows are made, in the words of the report."""

from __future__ import annotations

__all__ = ["PROTOCOL", "READING"]

READING = """Every claim is asked of pairs of runs that differ in one thing: the same base, seed and prompts. Level:
mean of what is compared with. The brackets are 95 % intervals. Those for bases like these are what the verdict is
about: bases, seeds and prompts drawn anew, or the t interval of the bases' means where that is wider; those for these
bases draw seeds and prompts anew. Least: the smallest difference that would have been found in four of five cases.
Up: bases whose difference is above 0. p: corrected for all claims of a paper (Holm). Holds: the interval lies above 0
and p is at most .05. Does not hold: the interval lies below what would matter (.02). Cannot be asked: a check failed.
Open: none of these, or fewer than three bases. No row speaks of more than the bases that it counts, and small models
like them."""

PROTOCOL = (
    "Bases: the architecture, codec and words of mini; the transformer is trained from nothing. `weak_roles` reads"
    " captions that exchange agent and recipient in half of the interactions. `weak_moves` samples from text alone, and"
    " half of its captions leave the path open.",
    "Hashes name bases: rows are paired within one base, seed and prompt, never across bases. Sittings may differ in"
    " how long bases were trained; the table of bases says so.",
    "Arms of MATRIX and TAViD: 128 true clips, the same in every run; 200 steps, batch 32, LoRA rank 32 on every layer,"
    " AdamW at .001, averaged weights. A seed sets first factors, order and noise, the same in all arms.",
    "MATRIX: SGA .01 and SPA .005, as the released code has them (1x), times the factor; logits through a decoder, no"
    " mask condition. Blind: the decoder learns from detached maps. Wrong masks: each clip has those of another.",
    "Layers of MATRIX: two for words, one for tracks, those with a gap between success and failure (5 %), filled up"
    " with the largest share of attention on the mask. Lowest: the smallest shares. Random draws: of what is left.",
    "TAViD: target mask and trigger word, clips with look-alikes, the loss on the first frame, the same layers.",
    "Judged on 128 prompts a set that nobody trained on: told (pairs of things seen in training), unseen pairs,"
    " look-alikes. 12 sampling steps, guidance 1, the same noise in all arms.",
    "IVG-DA: nothing is trained. 128 clips of one mover, 25 steps, guidance 3, boxes of the true clip. mIoU is of the"
    " box asked for and the box of the mover's colour. Rows that no model makes: true clips (ceiling), still clips (the"
    " true clip's first frame repeated, which knows where the box begins), exchanged clips (paths of other clips: what"
    " moves as things do and knows nothing of the boxes).",
    "IVG-DA on a U-Net: `weak_moves_unet` is built as ZeroScope (attention in space, to words and in time, 9 frames"
    " without compression of time), in the same world; the words have no start token that Peekaboo's masks could hide.",
    "Distance: kernel distance to true clips on the codec's features; lower is better.",
    "Check of the manipulation: the share of attention on the mask, on 64 true clips at the arm's own layers, as the"
    " mean of the kinds that the losses read, has to rise in every base. Not each kind by itself: a decoder reads a"
    " dark mask as well as a bright one. How each kind went stands below.",
)
