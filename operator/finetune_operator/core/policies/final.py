"""Has the run ended? Then nothing follows, whatever the children look like by now."""

from finetune_operator.core.draft import Draft


def keep_verdict(draft: Draft) -> Draft:
    return draft.settle() if draft.status.is_final else draft
