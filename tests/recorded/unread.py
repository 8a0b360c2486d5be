"""Written fields that change neither the page nor the tables when they are renamed, by kind of run.

A field leaves the list when a view shows it. Provenance that all kinds share stands under capture.
"""

from __future__ import annotations

UNREAD = {
    "probe": """
        calibration.accuracy_high calibration.accuracy_low calibration.aurc calibration.aurc_best
        calibration.aurc_high calibration.aurc_low calibration.auroc calibration.auroc_high
        calibration.auroc_low calibration.brier calibration.squared_error_all calibration.squared_error_all_high
        calibration.squared_error_all_low calibration.brier_high calibration.brier_low calibration.squared_error
        calibration.squared_error_high calibration.squared_error_low calibration.classwise
        calibration.classwise_chance calibration.commonest calibration.commonest_share
        calibration.confidence_high calibration.confidence_low calibration.coverage
        calibration.coverage.best calibration.coverage.risk calibration.coverage.share calibration.ece
        calibration.ece_chance calibration.ece_high calibration.ece_low calibration.ece_mass
        calibration.ece_mass_chance calibration.ece_mass_high calibration.ece_mass_low calibration.ece_p
        calibration.layer calibration.maximum_error calibration.measured calibration.n
        calibration.n_answered calibration.n_clusters calibration.n_impossible calibration.n_values
        calibration.nll calibration.nll_high calibration.nll_low calibration.overconfidence
        calibration.overconfidence_high calibration.overconfidence_low calibration.reliability
        calibration.resolution calibration.uncertainty calibration.within classes.layer errors.layer
        errors.site schema
    """,
    "ablate": """
        baseline baseline.high baseline.low baseline.n_clusters baseline.value certificates.*.method
        certificates.*.missed schema
    """,
    "patch": """
        baseline.clean.high baseline.clean.low baseline.clean.n_clusters baseline.corrupted.high
        baseline.corrupted.low baseline.corrupted.n_clusters certificates.*.method certificates.*.missed
        gap.n_clusters schema
    """,
    "attribute": """
        examples.flip.other records.draws records.errors records.more records.more.change
        records.more.conservation records.more.conservation.* records.more.curve records.more.drawn
        records.more.gap records.more.gap_share records.more.order records.more.outside
        records.more.removal records.more.rule records.more.samples records.more.site records.more.start
        records.more.steps records.notes schema
    """,
    "prune": """
        baseline baseline.high baseline.low baseline.n_clusters baseline.value records.n_clusters
        records.original_seconds records.removed records.seconds schema
    """,
    "usage": """
        baseline baseline.high baseline.low baseline.n_clusters baseline.value schema
    """,
    "neurons": """
        baseline baseline.high baseline.low baseline.n_clusters baseline.value neurons.layer
        neurons.words.split neurons.words.value schema sites.n_test sites.n_train sites.unconverged
        sites.whole.balanced sites.whole.lda sites.whole.mean_difference table.layer
    """,
    "attend": """
        checkpoints.entropy_high checkpoints.entropy_low checkpoints.name effects.baseline
        layers.confidence layers.distance layers.end layers.next layers.norm_end layers.norm_punctuation
        layers.output layers.punctuation layers.self records.effect_exact records.end_high
        records.end_low records.next_high records.next_low records.norm_end records.norm_end_high
        records.norm_end_low records.norm_first_high records.norm_first_low records.norm_punctuation
        records.norm_punctuation_high records.norm_punctuation_low records.offset records.output_high
        records.output_low records.positional records.previous_high records.previous_low
        records.punctuation_high records.punctuation_low records.self_high records.self_low schema
    """,
    "capture": """
        provenance.doctor.checks provenance.doctor.findings provenance.doctor.seconds
        provenance.doctor.status provenance.memory.batch_tokens provenance.model.attention
        provenance.model.bos_id provenance.model.causal provenance.model.device
        provenance.model.max_length provenance.model.tokenizer provenance.model.tokenizer_sha256 schema
        store.bytes
    """,
    "calibrate": """
        errors.method records.aurc_high records.aurc_low records.squared_error_all_high records.squared_error_all_low
        records.squared_error_high records.squared_error_low records.commonest records.commonest_share
        records.ece_mass_high records.ece_mass_low records.n_clusters records.n_impossible
        records.n_refused records.n_values schema
    """,
    "ask": """
        findings.property prompts.clean prompts.n_words records.aurc_high records.aurc_low
        records.commonest records.commonest_share records.ece_mass_high records.ece_mass_low
        records.n_clusters records.n_impossible records.n_refused records.n_unparsable records.n_values
        records.squared_error_high records.squared_error_low schema
    """,
    "geometry": """
        lens.records.layer lens.texts.log2p records.site records.upos:pca_high records.upos:pca_low
        records.upos:tsne_high records.upos:tsne_low schema
    """,
    "doctor": """
        findings.property schema status
    """,
}
"""No view reads them, or what it makes of the recorded values does not show them."""

EMPTY = {
    "probe": """
        provenance.memory.hold
    """,
    "patch": """
        certificates.*.misleads certificates.*.spearman_sample
    """,
    "attribute": """
        records.inner
    """,
    "usage": """
        certificates provenance.memory.hold
    """,
    "attend": """
        effects.diffuse_needed relations
    """,
    "capture": """
        provenance.doctor.wrong provenance.model.notes provenance.model.random_seed
    """,
}
"""Null or empty in every recorded run: there is nothing to show."""
