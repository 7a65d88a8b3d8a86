"""How the report is to be read, and how its rows are made, in the words of the report."""

from __future__ import annotations

__all__ = ["ARMS", "BY_BASE", "COLUMNS", "NOTES", "PROTOCOL", "READING", "VARIANCES"]

READING = (
    "Every claim is asked of pairs of runs that differ in one thing: the same base, seed and prompts. No row speaks of"
    " more than the bases that it counts, and small models like them."
)

COLUMNS = {
    "verdict": "*holds*: the interval for bases like these lies above 0, and p is at most .05. *does not hold*: it lies"
    " below the margin, and p of the margin is at most .05; of bases of which a few gain much and most little this says"
    " too much. *cannot be asked*: a check failed (floor, ceiling, or attention that did not move). Room above hides a"
    " gain and no loss: where the others stand at the ceiling and the interval lies below 0, the claim is answered."
    " *open*: none of these, or fewer than three bases. Of a claim that nothing is lost, both are asked of the"
    " difference and the margin together.",
    "paper's figure": "what the paper reports, on its own models and measure.",
    "contrast, set, score": "which arms are compared, on which clips, by what. Right roles: the share of prompts whose"
    " clip shows the interaction with the right agent and recipient.",
    "level": "mean of what is compared with.",
    "bases like these": "mean difference and its 95 % interval, not corrected: bases, seeds and prompts drawn anew, or"
    " Student's interval of the bases' means where that is wider. The verdict is about this one. Base by base:"
    " report.html.",
    "these bases": "the same for these very bases: seeds and prompts drawn anew.",
    "least": "the smallest difference that would have been found in four of five cases: by the interval alone; with all"
    " corrections of p.",
    "n": "up: bases whose difference is above 0. A base that was trained again from the same seed (another hash) is"
    " further runs of one base, and no further base, in all tables: its trainings may be alike, and counted apart"
    " nothing would be found to hold up to four times as often as .025. Looks: sittings that could have given a"
    " verdict; those that ran side by side and were first seen together are one.",
    "p; of the margin": "against no difference, and against the margin (.02: what would matter), corrected for the"
    " looks and then for all claims of a family that have three bases (Holm). After the k-th look p counts k (k + 1)"
    " / 2 times, so that all looks together spend 5 % of a claim with one side, however often one goes on. A family"
    " is a paper; claims that were added later, of other worlds and bases, have families of their own.",
}
"""Of the table of claims."""

PROTOCOL = (
    "Bases: the architecture, codec and words of mini; the transformer is trained from nothing. `weak_roles` reads"
    " captions that exchange agent and recipient in half of the interactions. `weak_moves` samples from text alone, and"
    " half of its captions leave the path open. The words' encoder is the published mini's, which saw true captions of"
    " all verbs: what no base saw is the picture of them, not the word.",
    "Hashes name bases: rows are paired within one base, seed and prompt, never across bases. Sittings may differ in"
    " how long bases were trained; the table of bases says so.",
    "Arms of MATRIX and TAViD: 128 true clips, the same in every run; 200 steps, batch 32, LoRA rank 32 on every layer,"
    " AdamW at .001, averaged weights. A seed sets first factors, order and noise, the same in all arms and in all"
    " bases. So seeds of one base are runs and no sample of bases, and no interval knows of other clips: the arms"
    " `other clips` train on another 128.",
    "Train and test: clips to train on, to analyse and to judge have seeds of their own, and unseen pairs are never"
    " shown by any. The prompts are the same for all arms and bases: a bootstrap draws them anew for all together.",
    "MATRIX: SGA .01 and SPA .005, as the released code has them (1x), times the factor; logits through a decoder, no"
    " mask condition. Blind: the decoder learns from detached maps. Wrong masks: each clip has those of another.",
    "Layers of MATRIX: two for words, one for tracks, those with a gap between success and failure (5 %), filled up"
    " with the largest share of attention on the mask. Lowest: the smallest shares. Random draws: of what is left, the"
    " same places of that list in every base. So the four draws are four sets of layers that hardly differ from base to"
    " base (words 9 and 10 with tracks 6 or so, and three others), and no interval knows of other draws. Up"
    " to 2026-12-01 the prompts of that analysis were the judged ones of the set told, so that its rows there may"
    " favour the dominant layers; since then they are others. Unseen pairs share nothing with either.",
    "TAViD: target mask and trigger word, clips with look-alikes, the loss on the first frame, the same layers. In"
    " `even` look-alikes are doubles of the recipient, as large, and stand where the verb could act on them just as"
    " well; in `target` places and ways that are free may give away who is meant. Two masks: agent and recipient have"
    " one each, and the words `source` and `target`; the loss is the sum of both. Learnt trigger: what the word adds to"
    " the text is trained along, from 0.",
    "Other worlds: `weak_pairs` (two interactions at once among 4 to 6 things: both have to be right), `weak_clutter`"
    " (24 things that nobody names, others in the way, a moving camera), clips of 33 and 49 frames, all with exchanged"
    " captions; `weak_verbs` (true captions, but nobody ever pulls or lifts; a fifth of the 128 clips shows it). Arms"
    " are trained on clips of their own world.",
    "Judged on 128 prompts a set that nobody trained on: told (pairs of things seen in training), unseen pairs,"
    " look-alikes, and the sets of the other worlds. 12 sampling steps, guidance 1, the same noise in all arms.",
    "IVG-DA: nothing is trained. 128 clips of one mover, 25 steps, guidance 3, boxes of the true clip. mIoU is of the"
    " box asked for and the box of the mover's colour. Rows that no model makes: true clips (ceiling), still clips (the"
    " true clip's first frame repeated, which knows where the box begins), exchanged clips (paths of other clips: what"
    " moves as things do and knows nothing of the boxes). Held to the true clip and biased are the control: a claim"
    " does not hold only where one of them brings .05 of mIoU, for else nothing may steer such bases.",
    "IVG-DA elsewhere: the boxes of fast paths and of paths that jump, for the same captions; and two subjects that act"
    " on each other, half of the time under a moving camera (`weak_scenes`), mean over both.",
    "IVG-DA on a U-Net: `weak_moves_unet` is built as ZeroScope (attention in space, to words and in time, 9 frames"
    " without compression of time), in the same world; the words have no start token that Peekaboo's masks could hide.",
    "Rules for layers: of each base with five arms or more that differ in their layers alone, the rank correlation of"
    " what its own analysis says of these layers with what the arms gained (10x minus off, both sets). The first row"
    " takes for each base the rule that was best on the others, and is the test; p of the others is corrected for all"
    " rules. Pick: what the arm that the rule names gained over the mean of the base's arms.",
    "Distance: kernel distance to true clips on the codec's features; lower is better.",
    "Check of the manipulation: the share of attention on the mask, on 64 true clips at the arm's own layers, as the"
    " mean of the kinds that the losses read, has to rise in every base. Not each kind by itself: a decoder reads a"
    " dark mask as well as a bright one. How each kind went stands below. Where it was not measured the row says so.",
)

BY_BASE = "The differences by base"
VARIANCES = "Variance of attention outputs by step"
NOTES = {
    VARIANCES: "Mean over heads, layers and bases, of the calls that masks change: mask normalisation makes the third"
    " equal to the second.",
    BY_BASE: "Of each claim: its mean difference on every base, in the order of their seeds.",
    "Bases before anything (floor): right roles": "What each base can do before an arm trains it. The text in"
    " brackets is the hash of its weights.",
    "Is there a rule that names good layers?": "Rank correlation (Spearman) over a base's arms; pick: what the arm that"
    " the rule names gained over the mean of the arms; p corrected for all rules but that of the first row.",
    "What is missing": "What the plan has and no sitting ran: claims without a row, then arms by how many of their runs"
    " are there.",
}
"""Under the titles of tables."""
ARMS = (
    "A row an arm: runs by base (in the order of their seeds), then the mean over bases and the paired difference"
    " to the reference for these bases (95 %). Lower is better of a distance. Of trained arms: the share of"
    " attention on the mask at the arm's own layers, of the reference and of the arm; means of MATRIX's measures;"
    " and how much of the first gradient at the factors comes from the losses of attention (not measured before"
    " 2026-12-02)."
)
"""Under the tables of arms."""
